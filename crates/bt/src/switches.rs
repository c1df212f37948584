//! The switches of the translator's optimisations: each can be turned off, for comparison and to
//! find out which one is to blame.
//!
//! To add one: a line in the list below, with a sentence that says what the translator does with
//! it, and a look at the field where that is decided ([`crate::translate`] and [`crate::vcpu`]
//! hold the [`Switches`] of their engine). Its name on the command line (`--bt-no`), its place in
//! the help and in the lockstep test follow by themselves.

macro_rules! switches {
    ($($(#[doc = $about:literal])+ $field:ident = $name:literal;)*) => {
        /// Which optimisations are on; all of them by default.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Switches {
            $($(#[doc = $about])+ pub $field: bool,)*
        }

        impl Default for Switches {
            fn default() -> Self {
                Switches { $($field: true,)* }
            }
        }

        impl Switches {
            /// Names, and what the translator does with the optimisation.
            pub const ALL: &'static [(&'static str, &'static str)] =
                &[$(($name, concat!($($about),+)),)*];

            fn by_name(&mut self, name: &str) -> Option<&mut bool> {
                match name {
                    $($name => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

switches! {
    /// links jumps inside a page, so that they need no look-up
    chain = "chain";
    /// lets branches between pages find their block without the dispatcher
    indirect = "indirect";
    /// puts a new block in the place of the jump that first led to it, where that is the last code
    adjoin = "adjoin";
    /// links jumps between pages, behind a look at where the other page is mapped
    far = "far";
    /// links a jump between pages only when it has been taken some times
    warm = "warm";
    /// remembers calls, so that returns need no look-up
    returns = "returns";
    /// looks at the pins only where a branch goes back or is indirect
    forward = "forward";
    /// looks at the pins by a load that faults once they were raised, where a branch goes back
    bell = "bell";
    /// links a jump by a word in memory to where it leads first, in settled code
    usual = "usual";
    /// gives each page a second place in the software TLB
    second_place = "second-place";
    /// gives the stack's pages entries of their own, which checks of accesses off RSP look at alone
    stack_slots = "stack-slots";
    /// looks ahead for which flags are still needed
    liveness = "liveness";
    /// checks accesses by a shorter sequence where flags are dead
    short_check = "short-check";
    /// checks accesses by the shorter sequence where flags can be made again behind it
    remake_flags = "remake-flags";
    /// checks accesses in front of the instruction that makes the flags which are live at them
    early_check = "early-check";
    /// checks accesses off the same registers together
    group = "group";
    /// makes the other copy of instructions that are checked together only where their check fails
    late_copies = "late-copies";
    /// checks the accesses of consecutive pushes, or pops and a return, together
    stack_runs = "stack-runs";
    /// replaces sensitive instructions by code, where they are usual ones
    inline_sensitive = "inline-sensitive";
    /// saves and restores x87 and vector registers by the host's XSAVE and XRSTOR
    save_state = "save-state";
    /// changes address spaces without the interpreter
    to_space = "to-space";
    /// keeps the tables of address spaces that the guest has left
    spaces = "spaces";
    /// goes on behind an instruction of the interpreter without the dispatcher
    resume = "resume";
    /// empties the code cache a region at a time when it is full
    regions = "regions";
    /// fills the software TLB without taking the state over
    refill = "refill";
    /// makes a kernel's code in large global pages for its linear address
    fixed = "fixed";
    /// looks ahead for flags from one page of such code to another
    fixed_flags = "fixed-flags";
    /// has the host's MMU check user memory of a program that computes for long
    window = "window";
    /// lets a program into that as it begins which has computed for long before
    known = "known";
    /// makes the code of such a program for its linear address
    settled = "settled";
    /// keeps what the kernel's tables hold of global pages from one address space to the next
    share = "share";
}

impl Switches {
    /// All on but those named, with commas between. The error names the word that is no switch
    /// and those that are.
    pub fn without(names: &str) -> Result<Switches, String> {
        let mut switches = Switches::default();
        for name in names.split(',') {
            *switches.by_name(name).ok_or_else(|| {
                let known: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
                format!("{name:?} is none of {}", known.join(", "))
            })? = false;
        }
        Ok(switches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_switch_off_what_they_say_and_nothing_else() {
        let off = Switches::without("chain,short-check").unwrap();
        let expected = Switches {
            chain: false,
            short_check: false,
            ..Switches::default()
        };
        assert_eq!(off, expected);
        for (name, _) in Switches::ALL {
            assert_ne!(Switches::without(name).unwrap(), Switches::default());
        }
        let error = Switches::without("chain,warp").unwrap_err();
        assert!(
            error.contains("\"warp\"") && error.contains("share"),
            "{error}"
        );
    }
}

//! Whether a program has made something of what nobody promises. Most programs stay where they were
//! put; some overwrite themselves or return into their data, and what they meet there the generator
//! has not chosen. So after a difference the program is run again, and the interpreter is followed
//! instruction by instruction: an answer that hangs on undefined flags, on x87's pointers or on
//! the last place of an approximation is no fault of the translator; nor that a program notices
//! interrupts which nobody asked for when it has overwritten the descriptor of their code segment,
//! or what a TLB still knows when it has written to page tables by chance.

use crate::generate::{Program, is_approximate, is_storing_pointers};
use crate::world::{CODE, CODE_ALIAS, CODE_AT, CODE_PAGES, Entries, World, device};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, RflagsBits};
use mem::Gpa;
use x86::Counters;
use x86::state::cr0;

/// The flags that instructions compute.
const ARITHMETIC: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// XSAVE and the stores that wipe its pointers.
const WIPING: usize = 6;

/// What is known of the program that runs.
#[derive(Default)]
pub struct Doubt {
    /// Flags whose values the manuals leave open, by iced's bits.
    undefined: u32,
    /// Those in the frame of the last event.
    pushed: u32,
    /// Why no difference counts any more.
    why: Option<String>,
    /// There are such flags where the two are compared.
    open: bool,
}

/// An instruction about to run, and what had happened before.
pub struct Step {
    instruction: Instruction,
    /// The program has it there, and so, and what wipes pointers behind it.
    own: bool,
    /// x87's pointers are not all zero.
    pointers: bool,
    before: Counters,
}

impl Doubt {
    /// The reason not to count a difference, if there is one.
    pub fn why(&self) -> Option<&str> {
        let open = self.open.then_some("what leaves flags undefined");
        self.why.as_deref().or(open)
    }

    /// At a synchronisation point, or where the program has come to an end otherwise.
    pub fn at_point(&mut self, w: &World, entries: &Entries) {
        self.open = self.undefined != 0;
        if w.shape.storm && w.notices_interrupts() {
            self.doubt("a store to what interrupts are delivered by");
        }
        if w.has_other_tables(entries) {
            self.doubt("a store to page tables");
        }
    }

    fn doubt(&mut self, why: &str) {
        self.why.get_or_insert_with(|| why.into());
    }

    /// Before a step of the interpreter.
    pub fn before(w: &World, p: &Program) -> Step {
        let s = w.vcpu.state();
        let mut bytes = [0; 15];
        for (n, byte) in bytes.iter_mut().enumerate() {
            let linear = s.rip.wrapping_add(n as u64);
            let at = match s.cr0 & cr0::PG {
                0 => linear,
                _ => w.bus.physical(s.cr3 & 0xf_ffff_f000, linear),
            };
            let word = w.ram.read_word(Gpa(at));
            *byte = word.unwrap_or_else(|_| device(Gpa(at), 1) as u8);
        }
        let bits = if s.cpl == 3 {
            w.shape.bits()
        } else {
            kernel_bits(w)
        };
        let instruction = Decoder::with_ip(bits, &bytes, s.rip, DecoderOptions::NONE).decode();
        let bases = [p.base, CODE, CODE_ALIAS, w.shape.code_high()];
        let into = bases.map(|base| s.rip.wrapping_sub(base));
        let into = into.into_iter().find(|at| *at < CODE_PAGES << 12);
        let own = into.is_some_and(|at| {
            let first = p.bytes.iter().position(|(start, _)| *start == at);
            let behind = first.map(|n| p.bytes[n..].iter().take(WIPING));
            behind.is_some_and(|mut all| all.all(|(at, bytes)| holds(w, *at, bytes)))
        });
        let x87 = s.x87;
        Step {
            instruction,
            own,
            pointers: (x87.ip | x87.dp, x87.opcode | x87.cs | x87.ds) != (0, 0),
            before: w.vcpu.counters(),
        }
    }

    /// After it.
    pub fn after(&mut self, w: &World, step: &Step) {
        let (i, was, now) = (&step.instruction, step.before, w.vcpu.counters());
        // The handler of an exception puts flags of its own into the frame.
        if now.exceptions != was.exceptions {
            self.pushed = 0;
            return;
        }
        if now.interrupts != was.interrupts {
            self.pushed = self.undefined;
            return;
        }
        if now.instructions == was.instructions {
            // It stands behind HLT.
            return;
        }
        let m = i.mnemonic();
        let used = read(i) & self.undefined;
        let why = match () {
            _ if used != 0 => Some("reads undefined flags"),
            _ if is_approximate(m) => Some("approximates"),
            _ if (is_storing_pointers(m) || m == Mnemonic::Xsave) && !step.own && step.pointers => {
                Some("stores x87's pointers")
            }
            _ => None,
        };
        if let Some(why) = why {
            self.doubt(&format!("`{i}` at {:x}, which {why}", i.ip()));
        }
        if is_restoring_flags(m) {
            self.undefined = if i.ip() >= w.shape.high() {
                self.pushed
            } else {
                0
            };
        } else {
            self.undefined = self.undefined & !changed(i) | undefined(i);
        }
    }
}

/// The flags that an instruction leaves undefined. Logical operations clear AF everywhere, and moves
/// to and from control and debug registers change none.
fn undefined(i: &Instruction) -> u32 {
    use Mnemonic::{And, Mov, Or, Test, Xor};
    match i.mnemonic() {
        And | Or | Test | Xor | Mov => 0,
        _ => i.rflags_undefined() & ARITHMETIC,
    }
}

/// The flags that it changes.
fn changed(i: &Instruction) -> u32 {
    match i.mnemonic() {
        Mnemonic::Mov => 0,
        _ => i.rflags_modified(),
    }
}

fn read(i: &Instruction) -> u32 {
    use Mnemonic::{Pushf, Pushfd, Pushfq, Syscall};
    match i.mnemonic() {
        Pushf | Pushfd | Pushfq | Syscall => ARITHMETIC,
        _ => i.rflags_read(),
    }
}

fn is_restoring_flags(m: Mnemonic) -> bool {
    use Mnemonic::{Iret, Iretd, Iretq, Popf, Popfd, Popfq, Sysretq};
    matches!(m, Iret | Iretd | Iretq | Popf | Popfd | Popfq | Sysretq)
}

/// Code has these bytes at an offset.
fn holds(w: &World, at: u64, bytes: &[u8]) -> bool {
    let mut now = [0; 15];
    let now = &mut now[..bytes.len()];
    w.ram.read(Gpa(CODE_AT + at), now).is_ok() && now == bytes
}

fn kernel_bits(w: &World) -> u32 {
    if w.shape.long { 64 } else { 32 }
}

#[cfg(test)]
mod tests {
    use super::Doubt;
    use crate::generate::Program;
    use crate::rng::Rng;
    use crate::shape::Shape;
    use crate::world::{CODE, DATA_LOW, TABLES, World};
    use crate::{interpret, load};
    use iced_x86::IcedError;
    use iced_x86::code_asm::*;
    use mem::Gpa;
    use x86::Stop;
    use x86::interp::Interpreter;

    /// What is said of code of a program in ring 3; `own`: the program has it there.
    fn said_of(
        own: bool,
        code: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Option<String> {
        let mut a = CodeAssembler::new(64).unwrap();
        code(&mut a).unwrap();
        a.out(0x84, al).unwrap();
        let code = a.assemble(CODE).unwrap();
        let mut starts = Vec::new();
        let mut bytes = Vec::new();
        let mut decoder = iced_x86::Decoder::new(64, &code, 0);
        while decoder.can_decode() {
            let i = decoder.decode();
            let range = i.ip() as usize..i.next_ip() as usize;
            starts.push(i.ip());
            bytes.push((i.ip(), code[range].to_vec()));
        }
        let mut program = Program {
            syncs: vec![*starts.last().unwrap()],
            bytes,
            starts,
            base: CODE,
            entry: 0,
        };
        let mut w = World::new(&Interpreter, Shape::wide(true));
        let mut state = w.start(&mut Rng::new(1));
        state.rip = CODE;
        state.rflags |= x86::state::rflags::IOPL;
        load(&mut w, &program, &state, &[]);
        if !own {
            program.bytes.clear();
        }
        let mut doubt = Some(Doubt::default());
        let stop = interpret(&mut w, &program, &mut 0, &mut doubt);
        assert_eq!(stop, Stop::Requested);
        let mut doubt = doubt?;
        doubt.at_point(&w, &World::entries(w.shape));
        doubt.why().map(str::to_owned)
    }

    #[test]
    fn flags_are_in_doubt_from_what_leaves_them_undefined_to_what_sets_them() {
        let why = said_of(true, |a| {
            let mut next = a.create_label();
            a.imul_2(eax, ecx)?;
            a.lea(rdx, qword_ptr(rdx + 1))?;
            a.js(next)?;
            a.set_label(&mut next)?;
            a.nop()
        });
        assert!(why.unwrap().contains("reads undefined flags"));
        // They are compared at the end.
        let why = said_of(true, |a| a.imul_2(eax, ecx));
        assert!(why.unwrap().contains("leaves flags undefined"));
        let why = said_of(true, |a| {
            let mut next = a.create_label();
            // CF and OF it defines.
            a.imul_2(eax, ecx)?;
            a.adc(eax, 1)?;
            a.imul_2(eax, ecx)?;
            a.cmp(eax, 3)?;
            a.js(next)?;
            a.set_label(&mut next)?;
            a.and(eax, 3)?;
            a.pushfq()
        });
        assert_eq!(why, None);
    }

    #[test]
    fn an_exception_gives_flags_that_are_defined() {
        let why = said_of(true, |a| {
            a.imul_2(eax, ecx)?;
            a.ud2()?;
            a.pushfq()
        });
        assert_eq!(why, None);
    }

    #[test]
    fn x87_pointers_are_in_doubt_where_they_are_and_the_generator_has_not_put_the_store() {
        for (own, used, expected) in [
            (false, true, true),
            (true, true, false),
            (false, false, false),
        ] {
            let why = said_of(own, |a| {
                a.fninit()?;
                if used {
                    a.fld1()?;
                }
                a.fnstenv(ptr(DATA_LOW))
            });
            assert_eq!(why.is_some(), expected, "{own} {used}: {why:?}");
        }
    }

    #[test]
    fn page_tables_may_change_where_programs_are_given_an_entry_and_by_use() {
        for shape in [Shape::hard(false, true), Shape::protected(false, false)] {
            let w = World::new(&Interpreter, shape);
            let entries = World::entries(shape);
            let moving = entries.moving.wrapping_sub(shape.high());
            w.bytes(moving, &[0]);
            w.bytes(
                TABLES,
                &[0x20 | w.ram.read_word::<u8>(Gpa(TABLES)).unwrap()],
            );
            assert!(!w.has_other_tables(&entries));
            w.bytes(TABLES + 0x801, &[0xff]);
            assert!(w.has_other_tables(&entries));
        }
    }
}

//! Links between pages and remembered calls, each where it must not hold any more: another page is
//! mapped at the target, the code that jumps runs at another address, what a call returns to was
//! written, and returns without an end. Blocks in the place of a jump. Code that is made for its
//! linear address, in large pages that are mapped anew. And what random programs hardly meet: flags
//! behind accesses that fail ([`remake`]), stacks across a page's end, bit strings by every register,
//! a bad MXCSR.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(missing_docs)]

#[path = "links/remake.rs"]
mod remake;
#[path = "support/end_bus.rs"]
mod support;

use bt::{Options, Switches, Translation};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use mem::{Gpa, GuestMemory};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{END, EndBus};
use x86::cpuid::CpuModel;
use x86::state::{Attributes, CpuState, Segment, cr0, cr4, efer};
use x86::{Engine, Signals, Stop, Vcpu};

const CODE: u64 = 0x8000;
/// A function in another page, and other pages that may take its place.
const FAR: u64 = 0xa000;
const OTHER: u64 = 0x5_0000;
const THIRD: u64 = 0x6_0000;
/// Page table entries.
const TABLE: u64 = 0x4000;
/// Tables of the upper half, with large pages.
const UPPER: u64 = 0x5000;
const DIRECTORY: u64 = 0x6000;
/// Bytes of a large page; the upper half begins with these.
const LARGE: u64 = 2 << 20;
const HIGH: u64 = 0xffff_ffff_8000_0000;

type Code<'a> = dyn Fn(&mut CodeAssembler) -> Result<(), IcedError> + 'a;

/// A processor in 64-bit mode, memory mapped to itself.
struct Rig {
    vcpu: Box<dyn Vcpu>,
    bus: EndBus,
    ram: Arc<GuestMemory>,
}

impl Rig {
    fn new(options: &Options) -> Rig {
        Rig::of(&Translation::new(options.clone()).unwrap())
    }

    fn of(engine: &dyn Engine) -> Rig {
        let ram = Arc::new(GuestMemory::flat(8 << 20).unwrap());
        let signals = Arc::new(Signals::default());
        let vcpu = engine
            .vcpu(0, &CpuModel::everything(), ram.clone(), signals.clone())
            .unwrap();
        let rig = Rig {
            vcpu,
            bus: EndBus(signals),
            ram,
        };
        for (at, entry) in [
            (0x1000, 0x2003u64),
            (0x2000, 0x3003),
            (0x3000, 0x4003),
            (0x1ff8, UPPER | 3),
            (UPPER + 0xff0, DIRECTORY | 3),
        ] {
            rig.ram.write_word(Gpa(at), entry).unwrap();
        }
        for n in 0..256 {
            rig.map(n << 12, n << 12);
        }
        rig
    }

    fn map(&self, linear: u64, at: u64) {
        let entry = Gpa(TABLE + 8 * (linear >> 12));
        self.ram.write_word(entry, at | 3).unwrap();
    }

    /// Maps a large global page of the upper half.
    fn map_large(&self, linear: u64, at: u64) {
        let entry = Gpa(large_entry(linear));
        self.ram.write_word(entry, at | LARGE_PAGE).unwrap();
    }

    fn put(&self, at: u64, code: &Code<'_>) {
        self.put_for(at, at, code);
    }

    /// Puts code at a place, for another linear address.
    fn put_for(&self, linear: u64, at: u64, code: &Code<'_>) {
        let mut a = CodeAssembler::new(64).unwrap();
        code(&mut a).unwrap();
        let code = a.assemble(linear).unwrap();
        self.ram.write(Gpa(at), &code).unwrap();
    }

    /// The processor about to run from an address.
    fn start(&self, rip: u64) -> CpuState {
        let mut s = CpuState::reset(0, true);
        let flat = |selector, attributes| Segment {
            selector,
            attributes: Attributes(attributes),
            limit: !0,
            base: 0,
        };
        s.seg = [flat(0x10, 0xc93); 6];
        s.seg[1] = flat(8, 0xa9b);
        s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
        s.cr3 = 0x1000;
        s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::PGE;
        s.efer = efer::LME | efer::LMA;
        s.rip = rip;
        s.gpr[4] = 0x2_0000;
        s
    }

    /// Runs from an address to the end; what is in RBX then.
    fn run(&mut self, rip: u64) -> u64 {
        self.run_from(&self.start(rip));
        self.vcpu.state().gpr[3]
    }

    /// Runs from a state to the end.
    fn run_from(&mut self, state: &CpuState) {
        self.vcpu.set_state(state).unwrap();
        let stop = self.vcpu.run(&mut self.bus, u64::MAX);
        assert_eq!(stop, Stop::Requested);
        self.bus.0.lower(Signals::RETURN);
    }

    fn count(&self, name: &str) -> u64 {
        let report = self.vcpu.report();
        report.iter().find(|(n, _)| n == name).map_or(0, |r| r.1)
    }
}

/// Present, writable, accessed and dirty, large and global.
const LARGE_PAGE: u64 = 0x1e3;

/// Where the entry of a large page of the upper half is.
fn large_entry(linear: u64) -> u64 {
    DIRECTORY + 8 * (linear >> 21 & 511)
}

/// With links made at once and after a while, and without any.
fn under_each(test: impl Fn(&mut Rig, bool)) {
    for off in [
        "",
        "warm",
        "far",
        "returns",
        "far,returns",
        "bell",
        "stack-runs",
        "adjoin",
        "fixed",
        "fixed,far",
        "fixed-flags",
    ] {
        let mut options = Options::default();
        if !off.is_empty() {
            options.switches = Switches::without(off).unwrap();
        }
        test(&mut Rig::new(&options), !off.contains("far"));
    }
}

/// Where [`calls`] is as a function: the same jump for all.
const CALLS: u64 = CODE + 0x800;

/// Calls FAR a hundred times.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ecx, 100)?;
    a.set_label(&mut again)?;
    a.call(FAR)?;
    a.dec(ecx)?;
    a.jne(again)
}

fn adds(n: i32) -> impl Fn(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        a.push(rcx)?;
        a.push(rdx)?;
        a.add(rbx, n)?;
        a.pop(rdx)?;
        a.pop(rcx)?;
        a.ret()
    }
}

#[test]
fn a_link_ends_where_another_page_is_mapped_at_its_target() {
    under_each(|rig, far| {
        let entry = TABLE + 8 * (FAR >> 12);
        rig.put(CODE, &move |a| {
            a.mov(ebx, 0)?;
            // For a while: others have the page then.
            a.call(CALLS)?;
            for page in [OTHER, THIRD, FAR] {
                a.mov(qword_ptr(entry), (page | 3) as i32)?;
                a.invlpg(byte_ptr(FAR))?;
                a.call(CALLS)?;
            }
            a.out(u32::from(END), al)
        });
        rig.put(CALLS, &|a| {
            calls(a)?;
            a.ret()
        });
        rig.put(FAR, &adds(1));
        rig.put(OTHER, &adds(1000));
        rig.put(THIRD, &adds(1_000_000));
        for _ in 0..3 {
            assert_eq!(rig.run(CODE), 100_100_200);
        }
        assert_eq!(rig.count("far_links") > 0, far);
    });
}

#[test]
fn a_link_holds_only_where_the_code_that_jumps_is_as_far_from_its_target() {
    // The same code at another address, from which another page is as far.
    const ALIAS: u64 = 0x7_0000;
    under_each(|rig, far| {
        rig.put(CODE, &|a| {
            a.mov(ebx, 0)?;
            calls(a)?;
            a.out(u32::from(END), al)
        });
        rig.put(FAR, &adds(1));
        rig.put(OTHER, &adds(1000));
        rig.map(ALIAS, CODE);
        rig.map(ALIAS + FAR - CODE, OTHER);
        for _ in 0..5 {
            assert_eq!(rig.run(CODE), 100);
            assert_eq!(rig.run(ALIAS), 100_000);
        }
        assert_eq!(rig.count("far_links") > 0, far);
    });
}

#[test]
fn a_link_ends_where_its_target_is_written() {
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            a.mov(ebx, 0)?;
            for n in 1..20 {
                // The operand of the addition in FAR: 1 to 19.
                a.mov(byte_ptr(FAR + 2 + 3), n)?;
                a.call(CALLS)?;
            }
            a.out(u32::from(END), al)
        });
        rig.put(CALLS, &|a| {
            calls(a)?;
            a.ret()
        });
        rig.put(FAR, &adds(1));
        assert_eq!(rig.run(CODE), 19_000);
    });
}

#[test]
fn a_call_returns_to_what_was_written_there_meanwhile() {
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            let mut again = a.create_label();
            a.mov(ebx, 0)?;
            a.mov(ecx, 100)?;
            // A block that calls, translated before that to which it returns.
            a.jmp(again)?;
            a.set_label(&mut again)?;
            a.mov(eax, ecx)?;
            a.call(FAR)?;
            // Its operand is what the function writes.
            a.add(rbx, 0)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.out(u32::from(END), al)
        });
        rig.put(FAR, &|a| {
            let mut end = a.create_label();
            a.test(eax, 3)?;
            a.jne(end)?;
            a.mov(rdx, qword_ptr(rsp))?;
            a.mov(byte_ptr(rdx + 3), al)?;
            a.set_label(&mut end)?;
            // Another branch meanwhile.
            let mut last = a.create_label();
            a.lea(rdx, qword_ptr(last))?;
            a.jmp(rdx)?;
            a.set_label(&mut last)?;
            a.ret()
        });
        let written = |n: u64| (n + 3) & !3;
        // What was written last stays.
        let sum = (1..=100).map(written).sum::<u64>();
        assert_eq!(rig.run(CODE), sum);
    });
}

#[test]
fn a_return_leads_to_the_page_that_is_mapped_there_by_then() {
    under_each(|rig, _| {
        let entry = TABLE + 8 * (CODE >> 12);
        let caller = |n: i32| {
            move |a: &mut CodeAssembler| {
                a.mov(edx, n)?;
                a.call(FAR)?;
                a.imul_3(edx, edx, n)?;
                a.add(rbx, rdx)?;
                a.jmp(FAR + 0x800)
            }
        };
        rig.put(CODE, &caller(10));
        rig.put_for(CODE, OTHER, &caller(1000));
        // Now and then it returns to another page than it was called from.
        rig.put(FAR, &move |a| {
            let mut end = a.create_label();
            a.test(ecx, 3)?;
            a.jne(end)?;
            a.mov(rax, qword_ptr(entry))?;
            a.xor(rax, ((CODE ^ OTHER) & !0xfff) as i32)?;
            a.mov(qword_ptr(entry), rax)?;
            a.invlpg(byte_ptr(CODE))?;
            a.set_label(&mut end)?;
            a.ret()
        });
        rig.put(FAR + 0x800, &|a| {
            a.dec(ecx)?;
            a.jne(CODE)?;
            a.out(u32::from(END), al)
        });
        rig.put(FAR + 0xc00, &|a| {
            a.mov(ebx, 0)?;
            a.mov(ecx, 100)?;
            a.jmp(CODE)
        });
        let (mut here, mut other, mut sum) = (10, 1000, 0);
        for n in (1..=100).rev() {
            let from = here;
            if n & 3 == 0 {
                (here, other) = (other, here);
            }
            sum += from * here;
        }
        assert_eq!(rig.run(FAR + 0xc00), sum);
    });
}

#[test]
fn a_block_in_the_place_of_a_jump_leaves_the_other_side_reachable() {
    let adjoined = Cell::new(0);
    // Which side of the branch comes first, and of which kind it is.
    for (first, jumps_back) in [(3, false), (4, false), (3, true), (4, true)] {
        under_each(|rig, _| {
            rig.put(CODE, &move |a| {
                let [mut again, mut thousand, mut next, mut end] =
                    core::array::from_fn(|_| a.create_label());
                a.mov(ebx, 0)?;
                a.mov(ecx, first)?;
                if jumps_back {
                    a.jmp(again)?;
                    a.set_label(&mut thousand)?;
                    a.add(rbx, 1000)?;
                    a.jmp(next)?;
                }
                a.set_label(&mut again)?;
                a.test(ecx, 1)?;
                a.jne(thousand)?;
                a.add(rbx, 1)?;
                if !jumps_back {
                    a.jmp(next)?;
                    a.set_label(&mut thousand)?;
                    a.add(rbx, 1000)?;
                }
                a.set_label(&mut next)?;
                // Now and then over its own operand, with what is there.
                a.test(ecx, 7)?;
                a.jne(end)?;
                a.mov(eax, dword_ptr(CODE))?;
                a.mov(dword_ptr(CODE), eax)?;
                a.set_label(&mut end)?;
                a.add(ecx, 3)?;
                a.cmp(ecx, first + 3 * 100)?;
                a.jb(again)?;
                a.out(u32::from(END), al)
            });
            for _ in 0..3 {
                assert_eq!(rig.run(CODE), 50 * 1001);
            }
            adjoined.set(adjoined.get() + rig.count("adjoined"));
        });
    }
    assert!(adjoined.get() > 0);
}

#[test]
fn a_block_that_goes_takes_along_what_goes_on_to_it_without_a_jump() {
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            let [mut again, mut end] = core::array::from_fn(|_| a.create_label());
            a.mov(ebx, 0)?;
            a.mov(ecx, 100)?;
            a.mov(rsp, 0x3_0008u64)?;
            a.set_label(&mut again)?;
            a.lea(rdx, qword_ptr(rbx + 1))?;
            a.lea(rsi, qword_ptr(rbx + 2))?;
            a.test(ecx, ecx)?;
            a.je(end)?;
            // Together across a page's end: translated anew after some times.
            a.push(rdx)?;
            a.push(rsi)?;
            a.pop(rbx)?;
            a.pop(rdi)?;
            a.sub(rbx, 1)?;
            a.dec(ecx)?;
            a.jmp(again)?;
            a.set_label(&mut end)?;
            a.out(u32::from(END), al)
        });
        for _ in 0..3 {
            assert_eq!(rig.run(CODE), 100);
        }
        assert!(rig.count("dropped") > 0);
    });
}

#[test]
fn accesses_of_pushes_and_pops_across_a_page_end_are_all_made() {
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            a.mov(ebx, 0)?;
            for top in 0x3_0000..0x3_0020u64 {
                a.mov(rsp, top + 8)?;
                a.mov(rax, top)?;
                a.mov(rbp, 7 * top)?;
                a.push(rax)?;
                a.push(rbp)?;
                a.push(rax)?;
                a.pop(rsi)?;
                a.pop(rdi)?;
                a.pop(rdx)?;
                a.add(rbx, rsi)?;
                a.sub(rbx, rdx)?;
                a.add(rbx, rdi)?;
                a.sub(rbx, rbp)?;
                // ENTER by hand; LEAVE, POP and RET from both sides of the page's end.
                let mut next = a.create_label();
                a.lea(rax, qword_ptr(next))?;
                a.push(rax)?;
                a.push(rdx)?;
                a.push(rdi)?;
                a.mov(rbp, rsp)?;
                a.sub(rsp, 0x100)?;
                a.leave()?;
                a.pop(rdx)?;
                a.ret()?;
                a.set_label(&mut next)?;
                a.sub(rbp, rdi)?;
                a.add(rbx, rbp)?;
                a.add(rbx, 1)?;
            }
            a.out(u32::from(END), al)
        });
        assert_eq!(rig.run(CODE), 0x20);
    });
}

/// The stack's entries hold the upper page when the accesses begin in the lower one, which lies
/// elsewhere in RAM: in front of the upper page there is something else.
#[test]
fn accesses_that_begin_in_the_page_below_the_stacks_entry_are_made_there() {
    const LOWER: u64 = 0x3_0000;
    const UPPER: u64 = LOWER + 0x1000;
    under_each(|rig, _| {
        rig.map(LOWER, OTHER);
        for (at, value) in [
            (OTHER + 0xff8, 1000u64),
            (UPPER - 8, 7),
            (UPPER, 100),
            (UPPER + 8, 10),
        ] {
            rig.ram.write_word(Gpa(at), value).unwrap();
        }
        rig.put(CODE, &|a| {
            let (mut again, mut below) = (a.create_label(), a.create_label());
            a.mov(ebx, 0)?;
            a.mov(edx, UPPER as u32)?;
            a.mov(ecx, 8)?;
            a.set_label(&mut again)?;
            a.mov(rsp, UPPER)?;
            a.pop(rax)?;
            a.mov(rsp, UPPER - 8)?;
            // Flags from memory cannot be made again: the pops keep them.
            a.cmp(rcx, qword_ptr(rdx))?;
            a.pop(rsi)?;
            a.pop(rdi)?;
            a.jb(below)?;
            a.mov(ebx, 0xdead)?;
            a.set_label(&mut below)?;
            a.lea(rbx, qword_ptr(rbx + rsi))?;
            a.add(rbx, rdi)?;
            // The same for a single access, and for one where flags are dead.
            a.mov(rsp, UPPER)?;
            a.pop(rax)?;
            a.mov(rsp, UPPER - 4)?;
            a.cmp(rcx, qword_ptr(rdx))?;
            a.mov(rsi, qword_ptr(rsp))?;
            a.lea(rbx, qword_ptr(rbx + rsi))?;
            a.mov(rsi, qword_ptr(rsp - 4))?;
            a.adc(rbx, rsi)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.out(u32::from(END), al)
        });
        // The word across the page's end: the upper half of 1000, the lower of 100.
        assert_eq!(rig.run(CODE), 8 * (1000 + 100 + (100 << 32) + 1000 + 1));
    });
}

/// The upper page has made room for another one in its first place of the TLB. In its second place
/// it must not be taken for the page below, which lies elsewhere in RAM.
#[test]
fn accesses_across_a_border_are_made_in_both_pages_wherever_the_tlb_has_the_upper_one() {
    const LOWER: u64 = 0x3_0000;
    const UPPER: u64 = LOWER + 0x1000;
    const RIVAL: u64 = HIGH + UPPER;
    under_each(|rig, _| {
        rig.map(LOWER, OTHER);
        rig.map_large(HIGH, 0);
        rig.put(CODE, &|a| {
            let mut again = a.create_label();
            a.mov(ebx, 0)?;
            a.mov(rsi, UPPER)?;
            a.mov(rdi, RIVAL)?;
            a.mov(ecx, 4)?;
            a.set_label(&mut again)?;
            a.mov(dword_ptr(rsi), ecx)?;
            a.mov(dword_ptr(rdi), ecx)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.mov(rax, qword_ptr(rdi))?;
            // Flags from memory cannot be made again: the accesses keep them.
            a.cmp(rcx, qword_ptr(rdi + 8))?;
            a.mov(dword_ptr(rsi - 2), 0x12345678)?;
            a.mov(rdx, qword_ptr(rsi - 4))?;
            a.adc(rbx, rdx)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.out(u32::from(END), al)
        });
        let sum = rig.run(CODE);
        let word = |at| rig.ram.read_word::<u16>(Gpa(at)).unwrap();
        let read = [OTHER + 0xffe, UPPER, UPPER - 2].map(word);
        assert_eq!(read, [0x5678, 0x1234, 0]);
        assert_eq!(sum, 4 * 0x1234_5678_0000);
    });
}

/// A function whose stack often lies across a page's end gets a second copy of its pushes and pops.
#[test]
fn a_function_gives_its_registers_and_flags_back_wherever_its_stack_lies() {
    const TIMES: i32 = 400;
    under_each(|rig, _| {
        rig.put(FAR, &|a| {
            a.stc()?;
            a.push(rbp)?;
            a.push(r13)?;
            a.push(r14)?;
            a.push(rsi)?;
            a.adc(rbx, 0)?;
            a.mov(rbp, rsp)?;
            a.xor(r13, r13)?;
            a.xor(r14, r14)?;
            a.sub(rsp, 0x40)?;
            a.lea(rsp, qword_ptr(rbp))?;
            a.xor(esi, esi)?;
            a.stc()?;
            a.pop(rsi)?;
            a.pop(r14)?;
            a.pop(r13)?;
            a.pop(rbp)?;
            a.ret()
        });
        rig.put(CODE, &|a| {
            let mut again = a.create_label();
            a.mov(ebx, 0)?;
            a.mov(r12d, TIMES)?;
            a.set_label(&mut again)?;
            a.mov(eax, r12d)?;
            a.and(eax, 7)?;
            a.lea(rsp, qword_ptr(rax * 8 + 0x3_0000))?;
            a.mov(rbp, r12)?;
            a.lea(r13, qword_ptr(r12 + r12 * 2))?;
            a.lea(r14, qword_ptr(r12 + r12 * 4))?;
            a.mov(rsi, r12)?;
            a.call(FAR)?;
            a.adc(rbx, 0)?;
            // Zero, if all are as they were: 1 + 3 - 5 + 1.
            a.add(rbp, r13)?;
            a.sub(rbp, r14)?;
            a.add(rbp, rsi)?;
            a.add(rbx, rbp)?;
            a.dec(r12d)?;
            a.jne(again)?;
            a.out(u32::from(END), al)
        });
        assert_eq!(rig.run(CODE), 2 * TIMES as u64);
        // The interpreter is needed until the copies are made, and for accesses that are not
        // aligned, of which there are none.
        assert!(rig.count("slow_accesses") < 200);
    });
}

#[test]
fn bit_strings_are_reached_by_every_register() {
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            a.mov(ebx, 0)?;
            a.mov(esi, 0x3_0000)?;
            a.mov(r10d, 0x3_0000)?;
            // Bits behind and before the operand, each set, seen, complemented and cleared.
            for offset in [0i64, 63, 64, 1000, -1, -130] {
                a.mov(r11, offset)?;
                a.mov(rdx, offset)?;
                a.bts(qword_ptr(rsi), r11)?;
                a.adc(rbx, 0)?;
                a.bt(qword_ptr(rsi), rdx)?;
                a.adc(rbx, 0)?;
                a.btc(qword_ptr(r10), r11)?;
                a.adc(rbx, 0)?;
                a.bts(qword_ptr(r10), rdx)?;
                a.adc(rbx, 0)?;
                a.btr(qword_ptr(rsi), r11)?;
                a.adc(rbx, 0)?;
                a.mov(r10d, 0x2_f000)?;
                a.mov(r11d, 0x8000)?;
                a.lea(r11, qword_ptr(r11 + rdx))?;
                a.bt(qword_ptr(r10), r11)?;
                a.adc(rbx, 0)?;
                a.mov(r10d, 0x3_0000)?;
            }
            a.out(u32::from(END), al)
        });
        // Seen by BT, BTC and BTR.
        assert_eq!(rig.run(CODE), 3 * 6);
        assert_eq!(rig.count("exits_interpret"), 1, "not translated");
    });
}

/// The host's would restore x87 first.
#[test]
fn a_restore_with_a_bad_mxcsr_changes_nothing() {
    const IMAGE: u64 = 0x3_0000;
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            a.mov(esi, IMAGE as u32)?;
            a.mov(eax, 7)?;
            a.mov(edx, 0)?;
            // Once as it should be.
            a.xrstor(ptr(rsi))?;
            a.fld1()?;
            a.mov(dword_ptr(rsi + 24), 0x1_1f80)?;
            a.xrstor(ptr(rsi))?;
            a.out(u32::from(END), al)
        });
        // Compacted, with SSE in it and x87 in its initial state.
        rig.ram.write_word(Gpa(IMAGE + 24), 0x1f80u32).unwrap();
        rig.ram.write_word(Gpa(IMAGE + 512), 2u64).unwrap();
        rig.ram
            .write_word(Gpa(IMAGE + 520), 1u64 << 63 | 7)
            .unwrap();
        let mut s = rig.start(CODE);
        s.cr4 |= cr4::OSXSAVE;
        s.xcr0 = 7;
        rig.vcpu.set_state(&s).unwrap();
        // There is no handler for the exception.
        let stop = rig.vcpu.run(&mut rig.bus, u64::MAX);
        assert_eq!(stop, Stop::Shutdown);
        let s = rig.vcpu.state();
        assert_eq!((s.x87.valid, s.mxcsr), (0x80, 0x1f80));
    });
}

/// Each calls on and on, with its own number, and goes to the other's stack in the midst of it.
/// The furthest place that an instruction at a page's end reaches forwards is more than two GiB from
/// the page's beginning. Backwards there is no such place.
#[test]
fn operands_and_jumps_reach_as_far_from_the_page_as_the_instruction_does() {
    const AT: u64 = CODE + 0xf00;
    const REACH: u64 = i32::MAX as u64;
    under_each(|rig, _| {
        // lea rbx, [rip + REACH]; to the end if ECX is one; jmp rip + REACH, where nothing is.
        let mut code = vec![0x48, 0x8d, 0x1d, 0xff, 0xff, 0xff, 0x7f];
        let lea = AT + code.len() as u64;
        code.extend([0xff, 0xc9, 0x74, 5, 0xe9, 0xff, 0xff, 0xff, 0x7f]);
        let jump = AT + code.len() as u64;
        code.extend([0xe6, END as u8]);
        rig.ram.write(Gpa(AT), &code).unwrap();
        let mut state = rig.start(AT);
        state.gpr[1] = 1;
        rig.run_from(&state);
        assert_eq!(rig.vcpu.state().gpr[3], lea + REACH);
        // A page fault there, with no handler for it.
        state.gpr[1] = 2;
        rig.vcpu.set_state(&state).unwrap();
        assert_eq!(rig.vcpu.run(&mut rig.bus, u64::MAX), Stop::Shutdown);
        assert_eq!(rig.vcpu.state().cr2, jump + REACH);
    });
}

#[test]
fn xgetbv_knows_which_state_translated_code_has_in_use() {
    under_each(|rig, _| {
        // What is in use at first, with a register of each component, without the vector ones.
        rig.put(CODE, &|a| {
            a.fninit()?;
            a.mov(ecx, 1)?;
            a.xgetbv()?;
            a.mov(ebx, eax)?;
            a.fld1()?;
            a.vpcmpeqd(ymm3, ymm3, ymm3)?;
            a.xgetbv()?;
            a.shl(ebx, 4)?;
            a.or(ebx, eax)?;
            a.vzeroall()?;
            a.xgetbv()?;
            a.shl(ebx, 4)?;
            a.or(ebx, eax)?;
            a.out(u32::from(END), al)
        });
        let mut state = rig.start(CODE);
        state.cr4 |= cr4::OSXSAVE;
        state.xcr0 = 7;
        for _ in 0..3 {
            rig.run_from(&state);
            assert_eq!(rig.vcpu.state().gpr[3], 0x071);
        }
    });
}

#[test]
fn calls_on_two_stacks_return_each_on_its_own() {
    // With the same slots, with slots of their own, with some of both; not aligned.
    for distance in [0x1000, 0x8000, 0x38, 0x8004] {
        under_each(|rig, _| {
            const STACK: u64 = 0x3_8000;
            rig.put(CODE, &move |a| {
                let [mut again, mut down, mut up, mut other, mut exchange] =
                    core::array::from_fn(|_| a.create_label());
                a.mov(rsp, STACK + distance)?;
                a.lea(rax, qword_ptr(other))?;
                a.push(rax)?;
                a.mov(rdi, rsp)?;
                a.mov(rsp, STACK)?;
                a.mov(ebx, 0)?;
                a.mov(ecx, 100)?;
                a.set_label(&mut again)?;
                a.mov(edx, 5)?;
                a.call(down)?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.out(u32::from(END), al)?;
                // As deep as EDX says; adds one a level on the way back.
                a.set_label(&mut down)?;
                a.push(rdx)?;
                a.call(exchange)?;
                a.dec(edx)?;
                a.je(up)?;
                a.call(down)?;
                a.set_label(&mut up)?;
                a.pop(rdx)?;
                a.add(rbx, 1)?;
                a.ret()?;
                a.set_label(&mut exchange)?;
                a.xchg(rsp, rdi)?;
                a.ret()?;
                // Adds a thousand each time, between two calls.
                a.set_label(&mut other)?;
                a.call(exchange)?;
                a.add(rbx, 1000)?;
                a.call(exchange)?;
                a.jmp(other)
            });
            // The other one goes on five times for each of the hundred.
            assert_eq!(rig.run(CODE), 100 * 5 + 250 * 1000);
        });
    }
}

#[test]
fn calls_return_without_the_branch_table_behind_a_change_of_the_stack() {
    let options = Options {
        count: true,
        ..Options::default()
    };
    let mut rig = Rig::new(&options);
    rig.put(CODE, &|a| {
        let [mut again, mut f, mut g, mut change] = core::array::from_fn(|_| a.create_label());
        a.mov(ebx, 0)?;
        a.mov(ecx, 1000)?;
        a.mov(rsi, 0x2_8000u64)?;
        a.set_label(&mut again)?;
        a.call(f)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.out(u32::from(END), al)?;
        a.set_label(&mut f)?;
        a.call(g)?;
        a.ret()?;
        a.set_label(&mut g)?;
        // To a stack on which others call, and back.
        a.xchg(rsp, rsi)?;
        a.push(rcx)?;
        a.call(change)?;
        a.pop(rcx)?;
        a.xchg(rsp, rsi)?;
        a.ret()?;
        a.set_label(&mut change)?;
        a.add(rbx, 1)?;
        a.ret_1(0)
    });
    assert_eq!(rig.run(CODE), 1000);
    let looks = rig.count("reached_by_branch_table") + rig.count("reached_by_table_of_blocks");
    assert!(looks < 50, "{looks}");
}

#[test]
fn a_return_to_the_last_byte_of_all_goes_there() {
    under_each(|rig, _| {
        // A page of its own, with a RET there. Slots that never held a call look as if one returned
        // to that byte.
        const LAST: u64 = 0x4_0000;
        for (at, entry) in [(0x1ff8, 0x2003u64), (0x2ff8, 0x3003), (0x3ff8, 0x4003)] {
            rig.ram.write_word(Gpa(at), entry).unwrap();
        }
        rig.ram.write_word(Gpa(TABLE + 0xff8), LAST | 3).unwrap();
        rig.ram.write(Gpa(LAST + 0xfff), &[0xc3]).unwrap();
        rig.put(CODE, &|a| {
            let [mut again, mut back] = core::array::from_fn(|_| a.create_label());
            a.mov(ebx, 0)?;
            a.mov(ecx, 100)?;
            a.set_label(&mut again)?;
            a.lea(rax, qword_ptr(back))?;
            a.push(rax)?;
            a.push(-1)?;
            a.ret()?;
            a.set_label(&mut back)?;
            a.add(rbx, 1)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.out(u32::from(END), al)
        });
        for _ in 0..3 {
            assert_eq!(rig.run(CODE), 100);
        }
    });
}

#[test]
fn returns_without_an_end_let_the_processor_be_stopped() {
    under_each(|rig, _| {
        rig.put(CODE, &|a| {
            let (mut again, mut deeper, mut here) =
                (a.create_label(), a.create_label(), a.create_label());
            a.mov(ecx, 1000)?;
            a.set_label(&mut again)?;
            a.call(deeper)?;
            a.set_label(&mut here)?;
            // All calls that are remembered would return here.
            a.lea(rax, qword_ptr(here))?;
            a.push(rax)?;
            a.ret()?;
            a.set_label(&mut deeper)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.ret()
        });
        let signals = rig.bus.0.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            signals.raise(Signals::RETURN);
        });
        rig.run(CODE);
        thread.join().unwrap();
    });
}

/// An interrupt comes to a loop that has them disabled; some time later the loop goes on and, by
/// `enable`, wants them.
fn interrupts_when_enabled(enable: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) {
    const FLAG: u64 = 0x7_0000;
    for off in ["", "bell", "bell,chain"] {
        let switches = match off {
            "" => Switches::default(),
            off => Switches::without(off).unwrap(),
        };
        let mut rig = Rig::new(&Options {
            switches,
            ..Options::default()
        });
        rig.put(CODE, &|a| {
            let (mut again, mut spin) = (a.create_label(), a.create_label());
            a.mov(rbx, FLAG)?;
            a.set_label(&mut again)?;
            a.inc(qword_ptr(rbx + 8))?;
            a.cmp(dword_ptr(rbx), 0)?;
            a.je(again)?;
            enable(a)?;
            a.set_label(&mut spin)?;
            a.nop()?;
            a.jmp(spin)
        });
        let (signals, ram) = (rig.bus.0.clone(), rig.ram.clone());
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            let pause = || std::thread::sleep(Duration::from_millis(20));
            let rounds = || ram.read_word::<u64>(Gpa(FLAG + 8)).unwrap();
            let goes_round = |until: u64| {
                while rounds() < until {
                    pause();
                }
            };
            goes_round(1000);
            signals.raise(Signals::INTR);
            // However busy the host is.
            goes_round(rounds() + 1000);
            let left = signals.get();
            ram.write_word(Gpa(FLAG), 1u32).unwrap();
            for _ in 0..200 {
                pause();
                if seen.load(Ordering::SeqCst) {
                    return (left, false);
                }
            }
            signals.raise(Signals::RETURN);
            (left, true)
        });
        rig.run(CODE);
        over.store(true, Ordering::SeqCst);
        let (left, late) = thread.join().unwrap();
        assert_eq!(left, Signals::INTR, "taken while interrupts were disabled");
        assert!(!late, "not taken");
        assert_eq!(rig.count("rung"), u64::from(off.is_empty()));
    }
}

#[test]
fn an_interrupt_that_rang_while_they_were_disabled_is_taken_behind_sti() {
    interrupts_when_enabled(|a| a.sti());
}

#[test]
fn an_interrupt_that_rang_while_they_were_disabled_is_taken_behind_popf() {
    interrupts_when_enabled(|a| {
        a.push(0x202)?;
        a.popfq()
    });
}

/// Switches CR4.PGE off and on.
fn toggles_pge(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, cr4)?;
    a.xor(rax, cr4::PGE as i32)?;
    a.mov(cr4, rax)?;
    a.xor(rax, cr4::PGE as i32)?;
    a.mov(cr4, rax)
}

#[test]
fn code_for_its_address_goes_when_its_large_page_is_mapped_anew() {
    let [near, next] = [HIGH, HIGH + LARGE];
    let code = near + 0x1000;
    // In another page of the frame, by all, and by a new space while nothing is global.
    // What makes the processor forget.
    let flushes: [&Code<'_>; 3] = [&|a| a.invlpg(byte_ptr(next + 0x5000)), &toggles_pge, &|a| {
        a.mov(rax, cr4)?;
        a.xor(rax, cr4::PGE as i32)?;
        a.mov(cr4, rax)?;
        a.mov(rdx, cr3)?;
        a.mov(cr3, rdx)?;
        a.xor(rax, cr4::PGE as i32)?;
        a.mov(cr4, rax)
    }];
    for flush in flushes {
        under_each(|rig, _| {
            rig.map_large(near, LARGE);
            rig.map_large(next, 2 * LARGE);
            let calls = near + 0x3800;
            rig.put_for(code, LARGE + 0x1000, &|a| {
                a.mov(ebx, 0)?;
                a.call(calls)?;
                for at in [3 * LARGE, 2 * LARGE] {
                    a.mov(rdx, large_entry(next))?;
                    a.mov(qword_ptr(rdx), (at | LARGE_PAGE) as i32)?;
                    flush(a)?;
                    a.call(calls)?;
                }
                a.out(u32::from(END), al)
            });
            rig.put_for(calls, LARGE + 0x3800, &|a| {
                let mut again = a.create_label();
                a.mov(ecx, 100)?;
                a.set_label(&mut again)?;
                a.call(next + 0x7000)?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.ret()
            });
            rig.put_for(next + 0x7000, 2 * LARGE + 0x7000, &adds(1));
            rig.put_for(next + 0x7000, 3 * LARGE + 0x7000, &adds(1000));
            for _ in 0..3 {
                assert_eq!(rig.run(code), 100_200);
            }
            assert_eq!(rig.count("remapped") > 0, rig.count("fixed") > 0);
        });
    }
    let mut rig = Rig::new(&Options::default());
    rig.map_large(near, LARGE);
    rig.put_for(code, LARGE + 0x1000, &|a| a.out(u32::from(END), al));
    rig.run(code);
    assert!(rig.count("fixed") > 0);
}

#[test]
fn flags_are_kept_for_another_page_that_comes_to_need_them() {
    let calls = HIGH + 0x3000;
    let function = HIGH + 0x5000;
    let place = |linear: u64| LARGE + (linear - HIGH);
    // ADD RBX, 5 by itself, or with the carry of the caller: another opcode.
    const ADD: i32 = 0xc3;
    const ADC: i32 = 0xd3;
    // In the page itself, or in a page of another frame, which is mapped anew.
    for remaps in [false, true] {
        under_each(|rig, _| {
            rig.map_large(HIGH, LARGE);
            rig.map_large(HIGH + LARGE, 2 * LARGE);
            let function = if remaps { HIGH + LARGE } else { function };
            rig.put_for(HIGH, LARGE, &|a| {
                a.mov(ebx, 0)?;
                a.mov(esi, 0x3_0000)?;
                for (at, opcode) in [(2, ADD), (3, ADC), (2, ADD)] {
                    if remaps {
                        a.mov(rdx, large_entry(function))?;
                        a.mov(qword_ptr(rdx), (at * LARGE + LARGE_PAGE) as i32)?;
                        a.invlpg(byte_ptr(function + 0x9000))?;
                    } else {
                        a.mov(rdx, function + 2)?;
                        a.mov(byte_ptr(rdx), opcode)?;
                    }
                    a.call(calls)?;
                }
                a.out(u32::from(END), al)
            });
            rig.put_for(calls, place(calls), &|a| {
                let mut again = a.create_label();
                a.mov(ecx, 100)?;
                a.set_label(&mut again)?;
                a.stc()?;
                // A check of which the flags need to know.
                a.mov(rax, qword_ptr(rsi))?;
                a.call(function)?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.ret()
            });
            for (at, opcode) in [(place(function), ADD), (2 * LARGE, ADD), (3 * LARGE, ADC)] {
                let code = [0x48, 0x83, opcode as u8, 5, 0xc3];
                rig.ram.write(Gpa(at), &code).unwrap();
            }
            for _ in 0..3 {
                assert_eq!(rig.run(HIGH), 300 * 5 + 100);
            }
        });
    }
}

#[test]
fn an_instruction_across_the_end_of_a_large_page_is_that_of_both() {
    let next = HIGH + LARGE;
    // Its operand is in the next large page.
    let across = next - 3;
    under_each(|rig, _| {
        rig.map_large(HIGH, LARGE);
        rig.map_large(next, 2 * LARGE);
        rig.put_for(HIGH, LARGE, &|a| {
            a.mov(ebx, 0)?;
            a.mov(rdx, large_entry(next))?;
            for at in [2 * LARGE, 3 * LARGE, 2 * LARGE] {
                let mut again = a.create_label();
                a.mov(qword_ptr(rdx), (at | LARGE_PAGE) as i32)?;
                a.invlpg(byte_ptr(next))?;
                a.mov(ecx, 100)?;
                a.set_label(&mut again)?;
                a.call(across)?;
                a.dec(ecx)?;
                a.jne(again)?;
            }
            a.out(u32::from(END), al)
        });
        for (n, add) in [(2, 0x100), (3, 0x20_0000)] {
            let mut a = CodeAssembler::new(64).unwrap();
            a.add(rbx, add).unwrap();
            a.ret().unwrap();
            let bytes = a.assemble(across).unwrap();
            rig.ram.write(Gpa(2 * LARGE - 3), &bytes[..3]).unwrap();
            rig.ram.write(Gpa(n * LARGE), &bytes[3..]).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(rig.run(HIGH), 200 * 0x100 + 100 * 0x20_0000);
        }
    });
}

#[test]
fn code_for_its_address_runs_at_that_address_alone() {
    // More distances and large pages than the translator takes as such.
    let places: Vec<u64> = (0..100).map(|n| HIGH + 2 * n * LARGE).collect();
    under_each(|rig, _| {
        for (n, place) in (0u64..).zip(&places) {
            rig.map_large(*place, LARGE);
            rig.map_large(place + LARGE, (2 + n % 2) * LARGE);
        }
        rig.put_for(HIGH, LARGE, &|a| {
            let (mut start, mut again) = (a.create_label(), a.create_label());
            a.set_label(&mut start)?;
            a.mov(ebx, 0)?;
            a.mov(ecx, 50)?;
            a.set_label(&mut again)?;
            a.call(HIGH + LARGE)?;
            a.dec(ecx)?;
            a.jne(again)?;
            // Where this is.
            a.lea(rax, qword_ptr(start))?;
            a.add(rbx, rax)?;
            a.out(u32::from(END), al)
        });
        rig.put_for(HIGH + LARGE, 2 * LARGE, &adds(1));
        rig.put_for(HIGH + LARGE, 3 * LARGE, &adds(1000));
        for _ in 0..3 {
            for (n, place) in (0u64..).zip(&places) {
                let add = if n % 2 == 0 { 50 } else { 50_000 };
                assert_eq!(rig.run(*place), place + add);
            }
        }
    });
}

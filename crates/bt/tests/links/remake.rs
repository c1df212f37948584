//! Flags behind accesses to memory: by what they were made, what has happened since, and how the
//! access goes. The translator must find what the interpreter finds, in the flags that the program
//! reads and in the frame of a page fault at the access.

use super::{CODE, END, Rig, TABLE};
use bt::{Options, Switches, Translation};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use mem::Gpa;
use x86::Engine;
use x86::interp::Interpreter;
use x86::state::{Attributes, Segment, TableRegister};

type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const IDT: u64 = 0x6000;
const GDT: u64 = 0x7000;
const TSS: u64 = 0x7800;
const HANDLER: u64 = 0x1_0000;
const HANDLER_STACK: u64 = 0x1_9000;
/// The page that accesses go to, by RBX; RSP is in it.
const DATA: u64 = 0x3_0000;
const STACK: u64 = 0x800;
/// Words that the program and the handler write, by RDI.
const LOG: u64 = 0x4_0000;
/// Pairs of values for RAX and RCX, by RBP.
const VALUES_AT: u64 = 0x5_0000;
const VALUES: [[u64; 2]; 8] = [
    [0, 0],
    [1, !0],
    [8, 8],
    [0x8000_0000, 0x7fff_ffff],
    [1 << 63, 1],
    [0xff0f, 0x80f0],
    [0xffff_fff8, 0x1234],
    [0x0123_4567_89ab_cdef, 0x7fff_ffff_0000_0000],
];

/// What makes flags.
const PRODUCERS: &[Part] = &[
    |a| a.test(eax, ecx),
    |a| a.test(ah, ch),
    |a| a.test(ax, 0x8001),
    |a| a.cmp(rax, rcx),
    |a| a.cmp(al, 5),
    |a| a.cmp(cx, ax),
    |a| a.cmp(rcx, -8),
    |a| a.and(rax, rcx),
    |a| a.or(r13d, ecx),
    |a| a.xor(cl, al),
    |a| a.xor(ah, cl),
    |a| a.xor(eax, eax),
    |a| a.xor(r10d, r10d),
    |a| a.sub(rcx, rcx),
    |a| a.sub(ch, ch),
    |a| a.and(si, cx),
    |a| a.or(sil, al),
    |a| a.and(ecx, dword_ptr(rdi)),
    |a| a.add(rax, 8),
    |a| a.add(ecx, -1),
    |a| a.add(eax, 0x1234),
    |a| a.sub(rcx, 0x1234),
    |a| a.sub(ecx, 0x7fff_ffff),
    |a| a.sub(rax, i32::MIN),
    |a| a.add(rcx, i32::MIN),
    |a| a.add(r14, 1),
    |a| a.add(rsp, 0x10),
    |a| a.sub(rsp, 0x10),
    // What is not made again, or not so simply.
    |a| a.add(rax, rcx),
    |a| a.sub(rcx, rax),
    |a| a.cmp(r10, rcx),
    |a| a.and(r11, rax),
    |a| a.add(r11, 8),
    |a| a.add(cx, 8),
    |a| a.cmp(rax, qword_ptr(rdi)),
    |a| a.neg(rax),
    |a| a.shl(ecx, 1),
    |a| a.stc(),
    |a| {
        a.cmp(rax, rcx)?;
        a.inc(rdx)
    },
    |a| {
        a.cmp(rax, rcx)?;
        a.cmc()
    },
    |a| {
        a.xor(eax, ecx)?;
        a.rol(rdx, 1)
    },
];

/// What comes then.
const ACCESSES: &[Part] = &[
    |a| a.mov(qword_ptr(rbx), rdx),
    |a| {
        a.mov(rdx, qword_ptr(rbx + 8))?;
        a.mov(qword_ptr(rbx + 16), rdx)
    },
    // Changes what the flags were made from.
    |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx + 8), rdx)?;
        a.mov(rcx, qword_ptr(rbx + 8))?;
        a.mov(byte_ptr(rsp + 8), dl)
    },
    |a| {
        a.lea(eax, qword_ptr(rax + 1))?;
        a.mov(cl, byte_ptr(rbx))?;
        a.xchg(rax, rcx)?;
        a.mov(dword_ptr(rbx + 4), edx)
    },
    // By stolen registers, and with them.
    |a| {
        a.mov(r11, rbx)?;
        a.mov(qword_ptr(r11 + 8), r10)?;
        a.mov(r10, qword_ptr(rbx))
    },
    |a| {
        a.push(qword_ptr(rbx))?;
        a.pop(qword_ptr(rbx + 8))
    },
    |a| {
        a.push(r8)?;
        a.push(r9)
    },
    |a| {
        a.pop(r9)?;
        a.pop(r8)
    },
    // To what is behind; from where RSP is, or 16 bytes above.
    |a| {
        a.mov(rdx, qword_ptr(rdi))?;
        a.pop(r9)?;
        a.pop(r8)?;
        a.ret()
    },
    |a| {
        a.pop(r9)?;
        a.pop(r8)?;
        a.ret()
    },
    |a| a.ret_1(8),
    // Across the page's end, alone and together.
    |a| a.mov(qword_ptr(rbx + 0xffc), rdx),
    |a| {
        a.mov(qword_ptr(rbx + 0xff0), rdx)?;
        a.mov(rsi, qword_ptr(rbx + 0xffa))
    },
    |a| {
        a.lea(rsp, qword_ptr(rbx + 0x1008))?;
        a.push(r8)?;
        a.push(r9)?;
        a.push(rdx)
    },
    |a| {
        a.mov(ah, byte_ptr(rbx))?;
        a.lea(rsi, qword_ptr(rbx + 0x100))?;
        a.movsb()?;
        a.mov(byte_ptr(rbx), ch)
    },
];

/// How the access goes.
const WAYS: &[Part] = &[
    // The software TLB knows the page.
    |a| {
        a.mov(rsi, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx), rsi)
    },
    |a| a.invlpg(byte_ptr(rbx)),
    |a| {
        a.mov(qword_ptr(TABLE + 8 * (DATA >> 12)), DATA as i32 | 2)?;
        a.invlpg(byte_ptr(rbx))
    },
];

fn program(a: &mut CodeAssembler, makes: Part, accesses: Part) -> Result<(), IcedError> {
    a.mov(rdi, LOG)?;
    for way in WAYS {
        let mut again = a.create_label();
        a.mov(rbp, VALUES_AT)?;
        a.set_label(&mut again)?;
        let [mut next, mut from] = core::array::from_fn(|_| a.create_label());
        a.mov(rbx, DATA)?;
        a.lea(rsp, qword_ptr(rbx + STACK as i32))?;
        a.lea(r8, qword_ptr(next))?;
        for n in -3..6 {
            a.mov(qword_ptr(rsp + 8 * n), r8)?;
        }
        way(a)?;
        a.mov(rax, qword_ptr(rbp))?;
        a.mov(rcx, qword_ptr(rbp + 8))?;
        for to in [r10, r13, rsi] {
            a.mov(to, rax)?;
        }
        for to in [r11, r14, rdx] {
            a.mov(to, rcx)?;
        }
        a.jmp(from)?;
        a.set_label(&mut from)?;
        makes(a)?;
        accesses(a)?;
        a.set_label(&mut next)?;
        a.lea(rsp, qword_ptr(rsp - 0x100))?;
        a.pushfq()?;
        a.pop(rsi)?;
        for from in [rsi, rax, rcx, rdx, rsp, r8, r9, r10, r11] {
            a.mov(qword_ptr(rdi), from)?;
            a.lea(rdi, qword_ptr(rdi + 8))?;
        }
        a.add(rbp, 16)?;
        // Twice, so that what lies across a page's end has other copies.
        a.cmp(rbp, (VALUES_AT + 2 * size_of_val(&VALUES) as u64) as i32)?;
        a.jb(again)?;
    }
    a.out(u32::from(END), al)?;
    // The interpreter looks where a block ends.
    let mut here = a.create_label();
    a.set_label(&mut here)?;
    a.jmp(here)
}

/// Notes RFLAGS, RIP and the error code, and maps the page.
fn handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(rax)?;
    for place in [32, 16, 8] {
        a.mov(rax, qword_ptr(rsp + place))?;
        a.mov(qword_ptr(rdi), rax)?;
        a.add(rdi, 8)?;
    }
    a.mov(qword_ptr(TABLE + 8 * (DATA >> 12)), DATA as i32 | 3)?;
    a.pop(rax)?;
    a.lea(rsp, qword_ptr(rsp + 8))?;
    a.iretq()
}

/// What the program and the handler have noted.
fn notes(engine: &dyn Engine, makes: Part, accesses: Part) -> Vec<u64> {
    let mut rig = Rig::of(engine);
    rig.put(CODE, &move |a| program(a, makes, accesses));
    rig.put(HANDLER, &handler);
    let word = |at: u64, word: u64| rig.ram.write_word(Gpa(at), word).unwrap();
    for (n, value) in VALUES.iter().chain(&VALUES).flatten().enumerate() {
        word(VALUES_AT + 8 * n as u64, *value);
    }
    word(GDT + 8, 0xaf_9b00_0000_ffff);
    word(GDT + 16, 0xcf_9300_0000_ffff);
    // A page fault: by a stack of its own.
    word(
        IDT + 14 * 16,
        HANDLER & 0xffff | 8 << 16 | (1 | 0x8e00) << 32 | HANDLER >> 16 << 48,
    );
    word(TSS + 0x24, HANDLER_STACK);
    let mut s = rig.start(CODE);
    s.idtr = TableRegister {
        base: IDT,
        limit: 0xfff,
    };
    s.gdtr = TableRegister {
        base: GDT,
        limit: 0x17,
    };
    s.tr = Segment {
        selector: 0x18,
        attributes: Attributes(0x8b),
        limit: 0x67,
        base: TSS,
    };
    rig.run_from(&s);
    let count = (rig.vcpu.state().gpr[7] - LOG) / 8;
    (0..count)
        .map(|n| rig.ram.read_word::<u64>(Gpa(LOG + 8 * n)).unwrap())
        .collect()
}

#[test]
fn flags_behind_an_access_are_those_that_were_there_before() {
    let engines = ["", "late-copies", "remake-flags", "early-check"].map(|off| {
        let mut options = Options::default();
        if !off.is_empty() {
            options.switches = Switches::without(off).unwrap();
        }
        (off, Translation::new(options).unwrap())
    });
    for (m, makes) in PRODUCERS.iter().enumerate() {
        for (n, accesses) in ACCESSES.iter().enumerate() {
            let expected = notes(&Interpreter, *makes, *accesses);
            assert!(expected.len() > 16 * 3 * 9, "no page faults");
            for (off, engine) in &engines {
                let got = notes(engine, *makes, *accesses);
                let first = expected.iter().zip(&got).position(|(a, b)| a != b);
                assert!(
                    got == expected,
                    "{m}, {n}, without {off:?}: word {first:?}: {:x?} {:x?}",
                    first.map(|f| expected[f]),
                    first.map(|f| got[f])
                );
            }
        }
    }
}

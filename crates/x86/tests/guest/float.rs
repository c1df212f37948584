//! What a comparison with the processor cannot see of x87 and SSE: deferred #MF, FERR#, the
//! environment in real mode, units switched off.

use crate::harness::*;
use x86::Signals;
use x86::Stop;
use x86::state::{cr0, cr4, rflags};
use x86::trap::vector;

/// FNINIT; FLDCW [DATA] with ZE unmasked; FLD1; FLDZ; FDIVP: a pending division by zero.
const DIVIDE: [u8; 15] = [
    0xdb, 0xe3, 0xd9, 0x2c, 0x25, 0, 0, 8, 0, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9,
];

fn long(after: &[u8]) -> Machine {
    let mut m = Machine::long();
    m.write(DATA, 0x37bu16);
    m.bytes(CODE, &DIVIDE);
    m.bytes(CODE + DIVIDE.len() as u64, after);
    m
}

#[test]
fn an_unmasked_exception_is_delivered_by_the_next_waiting_instruction() {
    // FNSTSW AX and NOP do not wait; FLD1 does, and so does MMX.
    for waiting in [
        &[0xd9, 0xe8, 0xf4][..],
        &[0x0f, 0xef, 0xc0, 0xf4],
        &[0x9b, 0xf4],
    ] {
        let mut m = long(&[0xdf, 0xe0, 0x90]);
        let at = CODE + DIVIDE.len() as u64 + 3;
        m.bytes(at, waiting);
        let (vector, s) = m.run_to_exception();
        assert_eq!(vector, vector::MF, "{waiting:x?}");
        assert_eq!(m.frame::<u64>(1), [at], "{waiting:x?}");
        // ES, B, ZE; TOP = 6: nothing popped.
        assert_eq!(s.gpr[RAX] & 0xffff, 0xb084);
        assert_eq!(s.x87.status, 0xb084);
        assert_eq!((s.x87.ip, s.x87.opcode), (CODE + 13, 0x6f9));
    }
}

#[test]
fn fnclex_and_fninit_take_a_pending_exception_back() {
    for clear in [[0xdb, 0xe2], [0xdb, 0xe3]] {
        let mut m = long(&[clear[0], clear[1], 0x9b, 0xd9, 0xe8, 0xf4]);
        let s = m.run();
        assert_eq!(s.x87.status & 0x80ff, 0);
    }
}

#[test]
fn fldcw_can_make_an_old_exception_pending() {
    // FNINIT; FLD1; FLDZ; FDIVP masked; FLDCW unmasks; FNOP raises.
    let mut m = Machine::long();
    m.write(DATA, 0x37bu16);
    m.bytes(CODE, &[0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9]);
    m.bytes(CODE + 8, &[0xd9, 0x2c, 0x25, 0, 0, 8, 0, 0xd9, 0xd0, 0xf4]);
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.x87.status & 0x80ff), (vector::MF, 0x8084));
    assert_eq!(m.frame::<u64>(1), [CODE + 15]);
}

#[test]
fn without_cr0_ne_the_processor_raises_ferr_and_waits_for_an_interrupt() {
    // FLD1, and PXOR MM0, MM0.
    waits_with_ferr(&[0xd9, 0xe8, 0xf4]);
    waits_with_ferr(&[0x0f, 0xef, 0xc0, 0xf4]);
}

fn waits_with_ferr(waiting: &[u8]) {
    let mut m = long(waiting);
    m.change(|s| {
        s.cr0 &= !cr0::NE;
        s.rflags |= rflags::IF;
    });
    assert_eq!(m.vcpu.run(&mut m.bus, 100), Stop::Budget);
    assert_eq!(m.state().rip, CODE + DIVIDE.len() as u64);
    assert_eq!(m.bus.ferr, [true]);
    m.bus.vectors = vec![0x75];
    m.signals.raise(Signals::INTR);
    // The handler: FNCLEX.
    m.bytes(STUBS + 16 * 0x75, &[0xdb, 0xe2, 0xf4]);
    let s = m.run();
    assert_eq!(s.rip, STUBS + 16 * 0x75 + 3);
    assert_eq!(m.frame::<u64>(1), [CODE + DIVIDE.len() as u64]);
    assert_eq!(m.bus.ferr, [true, false]);
}

#[test]
fn with_ignne_the_instruction_goes_on_regardless() {
    let mut m = long(&[0xd9, 0xe8, 0xf4]);
    m.bus.ignne = true;
    m.change(|s| s.cr0 &= !cr0::NE);
    let s = m.run();
    assert_eq!(s.x87.status & 0xb8ff, 0xa884);
}

#[test]
fn fnstenv_in_real_mode_spreads_the_pointers() {
    let mut m = Machine::real();
    m.write(DATA, 0x37bu16);
    m.change(|s| {
        s.x87.ip = 0x5_4321;
        s.x87.dp = 0xa_bcde;
        s.x87.opcode = 0x6f9;
        s.x87.control = 0x37f;
        s.x87.status = 0x3800;
        // R7 holds zero, the rest is empty.
        s.x87.valid = 0x80;
        s.gpr[RBX] = 0x900;
    });
    // FNSTENV [BX] in both sizes, then FLDENV of the 32-bit one.
    m.bytes(
        CODE,
        &[
            0xd9, 0x37, 0x66, 0xd9, 0x77, 0x40, 0x66, 0xd9, 0x67, 0x40, 0xf4,
        ],
    );
    let s = m.run();
    let narrow: Vec<u16> = (0..7).map(|n| m.read(0x900 + 2 * n)).collect();
    assert_eq!(
        narrow,
        [0x37f, 0x3800, 0x7fff, 0x4321, 0x56f9, 0xbcde, 0xa000]
    );
    let wide: Vec<u32> = (0..7).map(|n| m.read(0x940 + 4 * n)).collect();
    assert_eq!(
        wide,
        [
            0xffff_037f,
            0xffff_3800,
            0xffff_7fff,
            0xffff_4321,
            0x56f9,
            0xffff_bcde,
            0xa000
        ]
    );
    assert_eq!(
        (s.x87.ip, s.x87.dp, s.x87.opcode),
        (0x5_4321, 0xa_bcde, 0x6f9)
    );
    assert_eq!((s.x87.valid, s.x87.status), (0x80, 0x3800));
}

#[test]
fn units_that_are_off_raise_nm_or_ud() {
    // Code, CR0 bits, expected vector.
    let cases: [(&[u8], u64, Option<u8>); 6] = [
        (&[0xd9, 0xe8], cr0::TS, Some(vector::NM)),
        (&[0xd9, 0xe8], cr0::EM, Some(vector::NM)),
        (&[0x9b], cr0::TS | cr0::MP, Some(vector::NM)),
        (&[0x9b], cr0::TS, None),
        (&[0x0f, 0x58, 0xc1], cr0::TS, Some(vector::NM)),
        (&[0x0f, 0x58, 0xc1], cr0::EM, Some(vector::UD)),
    ];
    for (code, bits, expected) in cases {
        let mut m = Machine::long();
        m.change(|s| s.cr0 = s.cr0 & !cr0::MP | bits);
        m.bytes(CODE, code);
        m.bytes(CODE + code.len() as u64, &[0xf4]);
        match expected {
            Some(v) => assert_eq!(m.run_to_exception().0, v, "{code:x?} {bits:#x}"),
            None => assert_eq!(m.run().rip, CODE + code.len() as u64 + 1),
        }
    }
}

#[test]
fn an_unmasked_sse_exception_writes_flags_and_nothing_else() {
    for (osxmmexcpt, expected) in [(true, vector::XM), (false, vector::UD)] {
        let mut m = Machine::long();
        // DIVSS XMM0, XMM1: 1/0 with ZE unmasked.
        m.bytes(CODE, &[0xf3, 0x0f, 0x5e, 0xc1, 0xf4]);
        m.change(|s| {
            s.mxcsr = 0x1d80;
            s.vector[0][0] = 0x3f80_0000;
            s.vector[1][0] = 0;
            if !osxmmexcpt {
                s.cr4 &= !cr4::OSXMMEXCPT;
            }
        });
        let (vector, s) = m.run_to_exception();
        assert_eq!(
            (vector, s.mxcsr, s.vector[0][0]),
            (expected, 0x1d84, 0x3f80_0000)
        );
        assert_eq!(m.frame::<u64>(1), [CODE]);
    }
}

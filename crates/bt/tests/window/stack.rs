//! Accesses that begin or end elsewhere, by any base, and stack pointers that leave the window: every
//! exception must find the registers as they were, and nothing of this process may be reached.

use crate::rig::*;
use iced_x86::code_asm::*;

/// What FS adds where accesses go through the window.
const DISPLACEMENT: u64 = (1u64 << 33).wrapping_sub(1 << 46);

/// Where a program has the values that it goes through, by R12, with a zero behind them.
const VALUES: u64 = DATA + 0x3_0000;
const VALUES_AT: u64 = DATA_AT + 0x3_0000;

fn put_values(rig: &Rig, values: impl IntoIterator<Item = u64>) {
    for (n, value) in (0..).zip(values.into_iter().chain([0])) {
        rig.word(VALUES_AT + 8 * n, value);
    }
}

/// Gives the registers that a part may name values of their own.
fn tell_apart(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let registers = [rcx, rdx, rbx, rsi, rdi, r8, r9, r10, r11];
    for (n, register) in registers.into_iter().enumerate() {
        a.mov(register, 0x101 * n as u64 + 3)?;
    }
    Ok(())
}

/// Does each part for each value, in RAX and R14, and has all registers noted afterwards, by INT3; an
/// exception goes on there, too.
fn for_each(a: &mut CodeAssembler, parts: &[Part]) -> Result<(), IcedError> {
    for part in parts {
        let [mut again, mut next, mut begin, mut after] =
            core::array::from_fn(|_| a.create_label());
        a.mov(r12, VALUES)?;
        a.set_label(&mut again)?;
        a.mov(rsp, TOP)?;
        a.lea(r15, qword_ptr(next))?;
        a.mov(rbp, rsp)?;
        a.mov(r14, qword_ptr(r12))?;
        a.mov(rax, r14)?;
        tell_apart(a)?;
        a.jmp(begin)?;
        a.set_label(&mut begin)?;
        part(a)?;
        a.set_label(&mut next)?;
        a.lea(r15, qword_ptr(after))?;
        a.int3()?;
        a.set_label(&mut after)?;
        a.add(r12, 8)?;
        a.cmp(qword_ptr(r12), 0)?;
        a.jne(again)?;
    }
    Ok(())
}

/// Accesses by R14 (or RAX, which is the same) as the only thing that is asked about first, or later.
const BY_BASE: &[Part] = &[
    |a| a.mov(rdx, qword_ptr(r14)),
    |a| a.mov(qword_ptr(rax), rdx),
    |a| a.add(ecx, dword_ptr(rax + 4)),
    |a| a.add(qword_ptr(r14 - 8), rdx),
    |a| a.mov(cl, byte_ptr(rax - 1)),
    |a| a.mov(ah, byte_ptr(rax)),
    |a| a.mov(rdx, qword_ptr(rax + 0x1fff_f000)),
    |a| a.mov(qword_ptr(rax - 0x1fff_f000), rdx),
    |a| a.mov(rdx, qword_ptr(rax + 0x7fff_fff0)),
    |a| a.mov(qword_ptr(rax - 0x7fff_fff0), rdx),
    |a| a.mov(rdx, qword_ptr(rax + rcx * 8)),
    |a| a.mov(qword_ptr(rax + rcx), dl),
    |a| a.movups(xmm1, xmmword_ptr(rax - 8)),
    |a| a.movaps(xmmword_ptr(rax), xmm1),
    |a| a.vmovdqu(ymmword_ptr(rax - 24), ymm1),
    |a| a.lock().xadd(qword_ptr(rax), rdx),
    |a| a.mov(r10, qword_ptr(rax)),
    |a| a.mov(qword_ptr(rax), r11),
    |a| a.mov(r10, rax).and_then(|()| a.mov(rdx, qword_ptr(r10))),
    |a| a.bts(qword_ptr(rax), rdx),
    |a| a.push(qword_ptr(rax)),
    |a| a.pop(qword_ptr(rax)),
    |a| a.fld(qword_ptr(rax)),
    // Later in a block, where flags are live, too; and again by the same base.
    |a| {
        a.nop()?;
        a.mov(rdx, qword_ptr(rax))?;
        a.mov(rcx, qword_ptr(rax + 8))?;
        a.mov(qword_ptr(rax - 16), rcx)
    },
    |a| {
        a.cmp(rdx, rcx)?;
        a.mov(rsi, qword_ptr(rax))?;
        a.adc(rcx, qword_ptr(rax + 8))?;
        a.sbb(qword_ptr(rax), rcx)
    },
    |a| {
        a.nop()?;
        a.lea(rdi, qword_ptr(rax + 0x1fff_0000))?;
        a.mov(rsi, qword_ptr(rax))?;
        a.mov(rcx, qword_ptr(rdi))
    },
    |a| {
        a.mov(rdi, rax)?;
        a.mov(rsi, qword_ptr(rdi))?;
        a.add(rdi, 0x1fff_0000)?;
        a.add(rdi, 0x1fff_0000)?;
        a.mov(rcx, qword_ptr(rdi))?;
        a.mov(qword_ptr(rdi - 0x1fff_0000), rcx)
    },
    |a| {
        a.mov(ecx, 5)?;
        a.mov(rsi, rax)?;
        a.lea(rdi, qword_ptr(rbp - 0x100))?;
        a.rep().movsb()
    },
    |a| {
        a.mov(ecx, 5)?;
        a.mov(rdi, rax)?;
        a.rep().stosq()
    },
    |a| a.movsb(),
    |a| a.jmp(qword_ptr(rax)),
    |a| a.call(qword_ptr(rax)),
    // Stacks there.
    |a| a.mov(rsp, rax).and_then(|()| a.push(rcx)),
    |a| a.mov(rsp, rax).and_then(|()| a.pop(rcx)),
    |a| {
        a.mov(rsp, rax)
            .and_then(|()| a.mov(qword_ptr(rsp + 8), rcx))
    },
    |a| {
        a.mov(rbp, rax)?;
        a.leave()?;
        a.pop(rcx)
    },
    |a| {
        a.lea(rsp, qword_ptr(rax + 8))?;
        a.push(rcx)?;
        a.push(rdx)?;
        a.push(rbx)
    },
    |a| {
        a.xchg(rsp, rax)?;
        a.pop(rcx)?;
        a.pop(rdx)?;
        a.pop(rbx)
    },
];

/// Pages on both sides of what the window is for, and where they are in RAM.
fn map_borders(rig: &mut Rig) {
    let borders = [1 << 32, 1 << 46, 1 << 47, 0x1_0000u64];
    for (n, border) in (0..).zip(borders) {
        for (k, linear) in [(0, border - 0x1000), (1, border)] {
            if linear >> 47 == 0 {
                rig.map(
                    SPACES[0],
                    linear,
                    (OTHER_AT + ((2 * n + k) << 12)) | WRITABLE,
                );
            }
        }
    }
}

#[test]
fn an_access_by_any_base_is_made_where_it_leads_or_faults() {
    let canary = vec![0x5a5a_5a5a_5a5a_5a5au64; 64];
    let own = &raw const canary[32] as u64;
    let near = |border: u64| [border - 16, border - 8, border - 4, border, border + 8];
    let mut values: Vec<u64> = [
        1 << 32,
        1 << 46,
        1 << 47,
        0x1_0000,
        DATA,
        DATA + 0x1000,
        LOW + 0x1000,
    ]
    .into_iter()
    .flat_map(near)
    .collect();
    for at in [DATA + 0x40, LOW + 0x40, STACK + 0x1000] {
        // With something in the upper bits, and without what is there.
        values.extend([1 << 63, 1 << 62, 1 << 47, 1 << 46, 1 << 33, 1 << 32].map(|bit| at ^ bit));
        values.extend([
            at | 0xffff << 48,
            at.wrapping_add(DISPLACEMENT),
            at.wrapping_sub(DISPLACEMENT),
        ]);
    }
    for at in [
        own,
        std::hint::black_box(map_borders as *const ()) as u64,
        &raw const values as u64,
    ] {
        let moved = [0, DISPLACEMENT, DISPLACEMENT.wrapping_neg()].map(|by| at.wrapping_add(by));
        values.extend(moved);
        values.extend(moved.map(|at| at | 1 << 46));
        values.extend(moved.map(|at| at.wrapping_sub(0x7fff_fff0)));
    }
    values.extend([1, 8, !0, !7, 0xffff_c000_0000_0000, 0xffff_8000_0000_0000]);
    // What a base is when its code is made decides how it is made.
    for first in [DATA + 0x80, LOW + 0x80, own] {
        compare(
            &|rig| {
                map_borders(rig);
                put_values(
                    rig,
                    [first, first].into_iter().chain(values.iter().copied()),
                );
                rig.program(&|a| for_each(a, BY_BASE));
            },
            &|rig| {
                assert!(rig.noted().len() > 2 * values.len());
                assert!(rig.count("window_fills") > 0 && rig.count("window_missed") > 0);
            },
        );
    }
    assert!(canary.iter().all(|word| *word == 0x5a5a_5a5a_5a5a_5a5a));
}

/// Pushes, pops and what goes with them, from RSP.
const RUNS: &[Part] = &[
    |a| a.push(rcx),
    |a| a.push(r10),
    |a| a.push(0x1234),
    |a| a.push(qword_ptr(rbp - 0x100)),
    |a| a.push(rcx).and_then(|()| a.push(rdx)),
    |a| {
        a.push(rcx)?;
        a.push(rdx)?;
        a.push(rbx)
    },
    |a| {
        for register in [rcx, rdx, rbx, rbp, rsi, rdi, r8] {
            a.push(register)?;
        }
        Ok(())
    },
    |a| {
        // Longer than what is checked together, with one of those that are not the host's, and work behind.
        for register in [rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r13] {
            a.push(register)?;
        }
        a.sub(rsp, 0x20)?;
        a.mov(qword_ptr(rsp), rcx)
    },
    |a| {
        a.mov(qword_ptr(rsp - 8), rcx)?;
        a.push(rdx)?;
        a.mov(qword_ptr(rsp - 0x18), rbx)
    },
    |a| a.pushfq().and_then(|()| a.pop(rcx)),
    |a| a.pop(rcx),
    |a| a.pop(r11),
    |a| a.pop(qword_ptr(rbp - 0x100)),
    |a| a.pop(rcx).and_then(|()| a.pop(rdx)),
    |a| {
        a.pop(rcx)?;
        a.pop(rdx)?;
        a.pop(rbx)
    },
    |a| {
        for register in [rcx, rdx, rbx, rbp, rsi, rdi, r8] {
            a.pop(register)?;
        }
        Ok(())
    },
    |a| {
        a.pop(rcx)?;
        a.pop(rdx)?;
        a.ret()
    },
    |a| a.ret(),
    |a| a.ret_1(0x18),
    |a| {
        a.pop(rcx)?;
        a.ret_1(8)
    },
    |a| {
        a.add(rsp, 0x10)?;
        a.pop(rcx)?;
        a.pop(rdx)?;
        a.ret()
    },
    |a| {
        a.add(rsp, 8)?;
        a.pop(rcx)?;
        a.pop(rdx)
    },
    |a| {
        a.mov(rbp, rsp)?;
        a.sub(rsp, 0x40)?;
        a.leave()?;
        a.pop(rcx)?;
        a.ret()
    },
    |a| {
        a.lea(rbp, qword_ptr(rsp - 8))?;
        a.leave()
    },
    |a| {
        a.stc()?;
        a.pop(rcx)?;
        a.pop(rdx)?;
        a.adc(rcx, rdx)
    },
    |a| a.call(qword_ptr(rbp - 0x200)),
    |a| a.call(r15),
    |a| a.enter(0x10, 0),
];

#[test]
fn pushes_and_pops_across_a_border_fault_where_they_are_and_are_done_with_the_page_there() {
    const BELOW: u64 = STACK - 0x1000;
    const ABOVE: u64 = STACK + 0x2000;
    let around = |border: u64| {
        (0..9u64)
            .flat_map(move |n| [border + 8 * n, border - 8 * n])
            .chain([1, 4, 7, 12].map(|n| border + n))
            .chain([4, 12, 20].map(|n| border - n))
    };
    // With the page missing, with it there but not known yet, and read-only.
    for state in [0, WRITABLE, READ_ONLY] {
        compare(
            &|rig| {
                let edge = rig.map(SPACES[0], BELOW, OTHER_AT | state);
                rig.map(SPACES[0], ABOVE, (OTHER_AT + 0x1000) | state);
                put_values(rig, around(STACK).chain(around(ABOVE)));
                rig.program(&|a| {
                    for part in RUNS {
                        on_stacks(a, *part, edge, state)?;
                    }
                    Ok(())
                });
            },
            &|rig| {
                assert!(rig.noted().len() > 32 * RUNS.len());
                let [fills, missed] = ["window_fills", "window_missed"].map(|name| rig.count(name));
                assert_eq!(
                    (fills > 100, missed > 100),
                    (state != 0, state != WRITABLE),
                    "{fills} {missed}"
                );
            },
        );
    }
}

/// Does a part for each value, as RSP, with return addresses on the stack, and, each time, with the pages
/// around the stack's as the program has not used them yet. `edge`: the entry of the first of these.
fn on_stacks(a: &mut CodeAssembler, part: Part, edge: u64, state: u64) -> Result<(), IcedError> {
    let [mut again, mut next, mut begin, mut after] = core::array::from_fn(|_| a.create_label());
    a.mov(r12, VALUES)?;
    a.set_label(&mut again)?;
    a.mov(rsp, TOP - 0x800)?;
    a.lea(r15, qword_ptr(next))?;
    a.mov(rbp, rsp)?;
    for page in [0u64, 1] {
        let at = (OTHER_AT + (page << 12)) | state;
        let linear = STACK - 0x1000 + 0x3000 * page;
        change(a, Service::StoreInvlpg, edge + 24 * page, at, linear)?;
    }
    // What returns find, in the pages that are there.
    for n in 0..20 {
        a.mov(rdi, STACK + 8 * n)?;
        a.mov(qword_ptr(rdi), r15)?;
        a.mov(rdi, STACK + 0x1ff8 - 8 * n)?;
        a.mov(qword_ptr(rdi), r15)?;
    }
    a.mov(qword_ptr(rbp - 0x200), r15)?;
    for (n, register) in [rax, rcx, rdx, rbx, rsi, rdi, r8, r9, r10, r11, r13]
        .into_iter()
        .enumerate()
    {
        a.mov(register, 0x101 * n as u64 + 3)?;
    }
    a.mov(rsp, qword_ptr(r12))?;
    a.jmp(begin)?;
    a.set_label(&mut begin)?;
    part(a)?;
    a.set_label(&mut next)?;
    a.lea(r15, qword_ptr(after))?;
    a.int3()?;
    a.set_label(&mut after)?;
    a.add(r12, 8)?;
    a.cmp(qword_ptr(r12), 0)?;
    a.jne(again)
}

/// What makes RSP what RAX is.
const TO_STACK: &[Part] = &[
    |a| a.mov(rsp, rax),
    |a| {
        a.mov(qword_ptr(rbp - 0x80), rax)
            .and_then(|()| a.mov(rsp, qword_ptr(rbp - 0x80)))
    },
    |a| a.push(rax).and_then(|()| a.pop(rsp)),
    |a| a.xchg(rsp, rax),
    |a| {
        a.mov(qword_ptr(rbp - 0x80), rax)
            .and_then(|()| a.xchg(qword_ptr(rbp - 0x80), rsp))
    },
    |a| a.lea(rsp, qword_ptr(rax)),
    |a| {
        a.lea(rsp, qword_ptr(rax + 0x1fff_0000))
            .and_then(|()| a.sub(rsp, 0x1fff_0000))
    },
    |a| {
        a.xor(ecx, ecx)
            .and_then(|()| a.lea(rsp, qword_ptr(rax + rcx * 4)))
    },
    |a| a.sub(rax, rsp).and_then(|()| a.add(rsp, rax)),
    |a| {
        a.sub(rsp, rax)
            .and_then(|()| a.neg(rsp))
            .and_then(|()| a.add(rsp, rbp))
    },
    |a| a.xor(rax, rsp).and_then(|()| a.xor(rsp, rax)),
    |a| a.xor(esp, esp).and_then(|()| a.or(rsp, rax)),
    |a| a.mov(rsp, -1i64).and_then(|()| a.and(rsp, rax)),
    |a| a.cmp(rax, rax).and_then(|()| a.cmove(rsp, rax)),
    |a| {
        a.bswap(rax)
            .and_then(|()| a.mov(rsp, rax))
            .and_then(|()| a.bswap(rsp))
    },
    |a| {
        a.rol(rax, 7)
            .and_then(|()| a.mov(rsp, rax))
            .and_then(|()| a.ror(rsp, 7))
    },
    |a| a.movq(xmm2, rax).and_then(|()| a.movq(rsp, xmm2)),
    |a| a.movq(xmm2, rax).and_then(|()| a.pextrq(rsp, xmm2, 0)),
    |a| a.movq(xmm2, rax).and_then(|()| a.vmovq(rsp, xmm2)),
    |a| {
        a.movq(mm2, rax)
            .and_then(|()| a.movq(rsp, mm2))
            .and_then(|()| a.emms())
    },
    |a| {
        a.xor(esp, esp)?;
        a.xadd(rsp, rax)
    },
    |a| {
        a.mov(rcx, rax)?;
        a.mov(rax, rsp)?;
        a.cmpxchg(rsp, rcx)
    },
    |a| a.mov(rdx, -1i64).and_then(|()| a.pdep(rsp, rax, rdx)),
    |a| a.mov(rdx, -1i64).and_then(|()| a.pext(rsp, rax, rdx)),
    |a| a.mov(edx, 1).and_then(|()| a.mulx(rcx, rsp, rax)),
    |a| a.imul_3(rsp, rax, 1),
    |a| a.rorx(rsp, rax, 0),
    |a| a.xor(ecx, ecx).and_then(|()| a.shlx(rsp, rax, rcx)),
    |a| a.xor(ecx, ecx).and_then(|()| a.andn(rsp, rcx, rax)),
    |a| {
        a.mov(rsp, rax)
            .and_then(|()| a.movbe(qword_ptr(rbp - 0x80), rsp))
            .and_then(|()| a.movbe(rsp, qword_ptr(rbp - 0x80)))
    },
    |a| a.wrgsbase(rax).and_then(|()| a.rdgsbase(rsp)),
    |a| {
        a.mov(rsp, rax)
            .and_then(|()| a.mov(r10, rsp))
            .and_then(|()| a.mov(rsp, r10))
    },
    |a| a.mov(r11, rax).and_then(|()| a.xchg(rsp, r11)),
    |a| {
        a.mov(rcx, rbp)?;
        a.sub(rcx, 0x100)?;
        a.mov(qword_ptr(rcx), rbp)?;
        a.lea(rbp, qword_ptr(rax - 8))?;
        a.leave()
    },
];

/// What then uses it.
const BY_STACK: &[Part] = &[
    |a| a.push(rdx),
    |a| a.pop(rdx),
    |a| a.mov(rdx, qword_ptr(rsp)),
    |a| a.mov(qword_ptr(rsp + 8), rdx),
    |a| {
        a.push(rdx)
            .and_then(|()| a.push(rcx))
            .and_then(|()| a.push(rbx))
    },
    |a| {
        a.pop(rdx)
            .and_then(|()| a.pop(rcx))
            .and_then(|()| a.pop(rbx))
    },
    |a| a.call(r15),
    |a| a.ret(),
    // Behind a service of the kernel.
    |a| {
        a.mov(rdi, KERNEL + OTHER_AT)?;
        serve(a, Service::Load)?;
        a.push(rdx)?;
        a.pop(rcx)
    },
    // In a block of its own.
    |a| {
        a.nop()
            .and_then(|()| a.db(&[0xeb, 0]))
            .and_then(|()| a.pop(rdx))
    },
    |a| a.db(&[0xeb, 0]).and_then(|()| a.push(rdx)),
];

/// Addresses by which translated code would get to words of this process that hold something: as they
/// are, as FS leads there, and at a constant's distance from these.
fn aims(own: &[u64]) -> Vec<u64> {
    own.iter()
        .flat_map(|at| {
            [
                *at,
                at.wrapping_sub(DISPLACEMENT),
                at.wrapping_add(DISPLACEMENT),
            ]
        })
        .collect()
}

#[test]
fn whatever_changes_the_stack_pointer_leads_to_nothing_of_this_process() {
    let canary = vec![0x5a5a_5a5a_5a5a_5a5au64; 64];
    let own = [&raw const canary[32] as u64];
    let values: Vec<u64> = aims(&own)
        .into_iter()
        .chain([
            LOW + 0x800,
            DATA + 0x800,
            STACK + 0x800,
            0x1234,
            1 << 46,
            (1 << 46) - 8,
            1 << 47,
        ])
        .chain([
            0xffff_8000_0000_1000,
            0xffff_c000_0000_1000,
            1 << 63,
            (DATA + 0x800) | 1 << 63,
        ])
        .collect();
    for uses in BY_STACK {
        compare(
            &|rig| {
                map_borders(rig);
                put_values(rig, values.iter().copied());
                rig.program(&|a| {
                    for to_stack in TO_STACK {
                        on_changed(a, *to_stack, *uses)?;
                    }
                    Ok(())
                });
            },
            &|rig| assert!(rig.noted().len() > TO_STACK.len() * values.len()),
        );
    }
    assert!(canary.iter().all(|word| *word == 0x5a5a_5a5a_5a5a_5a5a));
}

fn on_changed(a: &mut CodeAssembler, to_stack: Part, uses: Part) -> Result<(), IcedError> {
    let [mut again, mut next, mut begin, mut after] = core::array::from_fn(|_| a.create_label());
    a.mov(r12, VALUES)?;
    a.set_label(&mut again)?;
    a.mov(rsp, TOP - 0x800)?;
    a.lea(r15, qword_ptr(next))?;
    a.mov(rbp, rsp)?;
    a.mov(rax, qword_ptr(r12))?;
    tell_apart(a)?;
    a.jmp(begin)?;
    a.set_label(&mut begin)?;
    to_stack(a)?;
    uses(a)?;
    a.set_label(&mut next)?;
    a.lea(r15, qword_ptr(after))?;
    a.int3()?;
    a.set_label(&mut after)?;
    a.add(r12, 8)?;
    a.cmp(qword_ptr(r12), 0)?;
    a.jne(again)
}

/// Steps of RSP without an access, or with one that fails.
const STEPS: &[(i32, Part)] = &[
    (0x7fff_ff00, |a| a.add(rsp, 0x7fff_ff00)),
    (-0x7fff_ff00, |a| a.sub(rsp, 0x7fff_ff00)),
    (0x1fff_ff00, |a| a.add(rsp, 0x1fff_ff00)),
    (0x3fff_fe00, |a| {
        a.add(rsp, 0x1fff_ff00)
            .and_then(|()| a.add(rsp, 0x1fff_ff00))
    }),
    (0x1fff_ff00, |a| a.lea(rsp, qword_ptr(rsp + 0x1fff_ff00))),
    // The access is behind it, but not made; or where there may be something.
    (0x1fff_ff00, |a| {
        a.add(rsp, 0x1fff_ff00)?;
        a.vmaskmovps(xmmword_ptr(rsp), xmm7, xmm1)
    }),
    (0x1fff_ff00, |a| {
        a.add(rsp, 0x1fff_ff00)?;
        a.nop_1(dword_ptr(rsp))
    }),
    (0x1fff_ff00, |a| {
        a.add(rsp, 0x1fff_ff00)?;
        a.prefetcht0(byte_ptr(rsp))
    }),
    (0x1fff_ff00, |a| {
        a.add(rsp, 0x1fff_ff00)?;
        a.mov(rdx, qword_ptr(rsp - 0x1fff_ff00))
    }),
    // After each fault, too.
    (0x1fff_ff00, |a| {
        let mut next = a.create_label();
        a.mov(r14, r15)?;
        a.lea(r15, qword_ptr(next))?;
        a.add(rsp, 0x1fff_ff00)?;
        a.mov(rdx, qword_ptr(rsp))?;
        a.set_label(&mut next)?;
        a.mov(r15, r14)
    }),
];

#[test]
fn steps_of_the_stack_pointer_lead_to_nothing_of_this_process() {
    let canary = vec![0x5a5a_5a5a_5a5a_5a5au64; 64];
    let own = &raw const canary[32] as u64;
    for (n, (step, part)) in STEPS.iter().enumerate() {
        let faults = n + 1 == STEPS.len();
        let aims = aims(&[own]);
        // Upwards to the aims, as far as that can be done; both ways as often.
        let times = |aim: &u64| (aim.wrapping_sub(TOP) as i64 / i64::from(*step)) as u64;
        // So many, and from where.
        let values: Vec<u64> = aims
            .iter()
            .filter(|aim| (1..1 << 18).contains(&times(aim)) && !faults)
            .flat_map(|aim| {
                let times = times(aim);
                [
                    times,
                    aim.wrapping_sub((times as i64 * i64::from(*step)) as u64),
                ]
            })
            .chain([3, TOP, 600, TOP, 5000, TOP])
            .collect();
        compare(
            &|rig| {
                put_values(rig, values.iter().copied().chain([0]));
                rig.program(&|a| {
                    let [mut again, mut more, mut next, mut after] =
                        core::array::from_fn(|_| a.create_label());
                    a.mov(r12, VALUES)?;
                    a.set_label(&mut again)?;
                    a.lea(r15, qword_ptr(next))?;
                    a.mov(ecx, dword_ptr(r12))?;
                    a.mov(rsp, qword_ptr(r12 + 8))?;
                    a.set_label(&mut more)?;
                    part(a)?;
                    a.dec(ecx)?;
                    a.jne(more)?;
                    a.pop(rdx)?;
                    a.push(rcx)?;
                    a.set_label(&mut next)?;
                    a.lea(r15, qword_ptr(after))?;
                    a.int3()?;
                    a.set_label(&mut after)?;
                    a.add(r12, 16)?;
                    a.cmp(qword_ptr(r12), 0)?;
                    a.jne(again)
                });
            },
            &|rig| assert!(rig.noted().len() > 3),
        );
    }
    assert!(canary.iter().all(|word| *word == 0x5a5a_5a5a_5a5a_5a5a));
}

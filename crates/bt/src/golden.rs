//! How many host instructions and bytes each family of guest instructions becomes, held against a
//! checked-in table, so that a change shows in review. Not a limit: whoever changes the translator
//! makes the table again and looks at the difference.
//!
//! ```text
//! MOINHO_BLESS=1 cargo test -p bt golden      writes golden/host-instructions.txt again
//! ```
//!
//! Each instruction stands alone (but for runs of the stack, which are one) in front of code that needs the flags it leaves, and of code that
//! does not. What is counted *in line* runs when all goes well; *aside* is what it adds behind the
//! block for a TLB miss, a case that is not the usual one, and so on. For an instruction that ends
//! its block all is in line.

use crate::area::View;
use crate::switches::Switches;
use crate::translate::{Output, Side, Source, Translator, exits};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use mem::{Gpa, GuestMemory};
use std::fmt::Write;
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::exec::Exec;
use x86::interp::InterpVcpu;
use x86::state::{Attributes, Segment, cr0, cr4, efer, rflags, seg};
use x86::{Bus, CpuState, Signals, Vcpu};

/// Where the instruction stands in its page, and the one that branches go to.
const AT: u64 = 0x100;
const TARGET: u64 = 0x180;
/// Host addresses, made up.
const ORIGIN: u64 = 0x7000_0000_0000;
const LEAVE: u64 = 0x5555_5555_5000;

type One = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A family: its name, where it runs, instructions.
type Family = (&'static str, Place, &'static [One]);

/// Where instructions run.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Ring(u8),
    /// In ring 3 through the window, in a page on a side of it; the first instruction of a block or
    /// not.
    Window(Side, bool),
}

const FAMILIES: &[Family] = &[
    (
        "arithmetic in registers",
        Place::Ring(3),
        &[
            |a| a.add(eax, ebx),
            |a| a.sub(rax, 8),
            |a| a.imul_2(rax, rbx),
            |a| a.mul(rbx),
            |a| a.div(rbx),
            |a| a.shl(rax, 3),
            |a| a.sar(eax, cl),
            |a| a.mov(rax, rbx),
            |a| a.mov(eax, 1),
            |a| a.lea(rax, rbx + rcx * 4 + 8),
            // lea rax, [rip + 0x123]
            |a| a.db(&[0x48, 0x8d, 0x05, 0x23, 1, 0, 0]),
            |a| a.setc(al),
            |a| a.cmovz(rax, rbx),
            |a| a.bsf(rax, rbx),
            |a| a.mulx(rax, rbx, rcx),
        ],
    ),
    (
        "arithmetic with the stolen registers",
        Place::Ring(3),
        &[
            |a| a.add(r10, rax),
            |a| a.add(rax, r11),
            |a| a.mov(r10, r11),
            |a| a.lea(r11, r10 + r11 * 2),
            |a| a.xor(r10d, r10d),
        ],
    ),
    (
        "arithmetic in memory",
        Place::Ring(3),
        &[
            |a| a.add(eax, dword_ptr(rbx + 8)),
            |a| a.add(dword_ptr(rbx + rcx * 4), eax),
            |a| a.cmp(byte_ptr(rbx), 0),
            |a| a.inc(qword_ptr(rbx)),
            |a| a.add(r10, qword_ptr(rbx)),
            |a| a.lock().xadd(qword_ptr(rbx), rax),
            |a| a.lock().cmpxchg(dword_ptr(rbx), ecx),
            |a| a.xchg(qword_ptr(rbx), rax),
            |a| a.bt(qword_ptr(rbx), rcx),
            |a| a.lock().bts(qword_ptr(rbx), rcx),
        ],
    ),
    (
        "loads and stores",
        Place::Ring(3),
        &[
            |a| a.mov(rax, qword_ptr(rbx)),
            |a| a.mov(eax, dword_ptr(rbx + rcx * 8 + 0x40)),
            |a| a.movzx(eax, byte_ptr(rbx)),
            |a| a.movsxd(rax, dword_ptr(rbx)),
            // mov rax, [rip + 0x200]
            |a| a.db(&[0x48, 0x8b, 0x05, 0, 2, 0, 0]),
            |a| a.mov(rax, qword_ptr(0x28).fs()),
            |a| a.mov(r10, qword_ptr(r11)),
            |a| a.mov(ah, byte_ptr(rbx)),
            |a| a.mov(qword_ptr(rbx), rax),
            |a| a.mov(byte_ptr(rbx), al),
            |a| a.mov(dword_ptr(rbx), 7),
            |a| a.mov(qword_ptr(r10), r11),
        ],
    ),
    (
        "stack",
        Place::Ring(3),
        &[
            |a| a.push(rax),
            |a| a.push(r10),
            |a| a.push(7),
            |a| a.push(qword_ptr(rbx)),
            |a| a.pop(rax),
            |a| a.pop(r11),
            |a| a.leave(),
        ],
    ),
    (
        "branches",
        Place::Ring(3),
        &[
            |a| a.jmp(TARGET),
            |a| a.jmp(TARGET + 0x10_0000),
            |a| a.jmp(AT - 0x40),
            |a| a.jz(TARGET),
            |a| a.jl(AT - 0x40),
            |a| a.jz(TARGET + 0x10_0000),
            |a| a.call(TARGET),
            |a| a.call(TARGET + 0x10_0000),
            |a| a.call(rax),
            |a| a.call(qword_ptr(rbx)),
            |a| a.jmp(rax),
            |a| a.jmp(qword_ptr(rbx + rcx * 8)),
            |a| a.ret(),
        ],
    ),
    (
        "strings",
        Place::Ring(3),
        &[
            |a| a.rep().movsb(),
            |a| a.rep().stosq(),
            |a| a.movsq(),
            |a| a.stosb(),
            |a| a.lodsb(),
            |a| a.repne().scasb(),
            |a| a.repe().cmpsb(),
        ],
    ),
    (
        "SSE",
        Place::Ring(3),
        &[
            |a| a.movaps(xmm0, xmm1),
            |a| a.movups(xmm0, xmmword_ptr(rbx)),
            |a| a.movaps(xmmword_ptr(rbx), xmm0),
            |a| a.addsd(xmm0, xmm1),
            |a| a.mulsd(xmm0, qword_ptr(rbx)),
            |a| a.cvtsi2sd(xmm0, rax),
            |a| a.ucomisd(xmm0, xmm1),
            |a| a.pshufb(xmm0, xmm1),
            |a| a.aesenc(xmm0, xmm1),
            |a| a.sha256rnds2(xmm1, xmm2),
            |a| a.ldmxcsr(dword_ptr(rbx)),
        ],
    ),
    (
        "AVX",
        Place::Ring(3),
        &[
            |a| a.vaddpd(ymm0, ymm1, ymm2),
            |a| a.vmovdqu(ymm0, ymmword_ptr(rbx)),
            |a| a.vmovdqu(ymmword_ptr(rbx), ymm0),
            |a| a.vfmadd231sd(xmm0, xmm1, qword_ptr(rbx)),
            |a| a.vpmovmskb(eax, ymm1),
            |a| a.vzeroupper(),
        ],
    ),
    (
        "x87",
        Place::Ring(3),
        &[
            |a| a.fld(dword_ptr(rbx)),
            |a| a.fld(tbyte_ptr(rbx)),
            |a| a.fadd_2(st0, st1),
            |a| a.fstp(qword_ptr(rbx)),
            |a| a.fcomi(st0, st1),
            |a| a.fnstcw(word_ptr(rbx)),
            |a| a.fldcw(word_ptr(rbx)),
            |a| a.fnstenv(ptr(rbx)),
        ],
    ),
    (
        "sensitive, user",
        Place::Ring(3),
        &[
            |a| a.pushfq(),
            |a| a.popfq(),
            |a| a.syscall(),
            |a| a.rdtsc(),
            |a| a.rdtscp(),
            |a| a.cpuid(),
            |a| a.xgetbv(),
            |a| a.rdfsbase(rax),
            |a| a.wrfsbase(rax),
            |a| a.int3(),
            |a| a.pause(),
            |a| a.fxsave64(ptr(rbx)),
            |a| a.xsavec64(ptr(rbx)),
        ],
    ),
    (
        "sensitive, kernel",
        Place::Ring(0),
        &[
            |a| a.cli(),
            |a| a.sti(),
            |a| a.pushfq(),
            |a| a.popfq(),
            |a| a.iretq(),
            |a| a.sysretq(),
            |a| a.swapgs(),
            |a| a.stac(),
            |a| a.clac(),
            |a| a.hlt(),
            |a| a.mov(rax, cr3),
            |a| a.mov(cr3, rax),
            |a| a.mov(rax, cr2),
            |a| a.mov(eax, ds),
            |a| a.mov(ds, eax),
            |a| a.invlpg(ptr(rbx)),
            |a| a.rdmsr(),
            |a| a.wrmsr(),
            |a| a.in_(eax, dx),
            |a| a.out(dx, eax),
            |a| a.mov(rax, qword_ptr(0x10).gs()),
        ],
    ),
    (
        "through the window, first in a block",
        Place::Window(Side::High, true),
        THROUGH,
    ),
    (
        "through the window, later in a block",
        Place::Window(Side::High, false),
        THROUGH,
    ),
    (
        "through the window, off RIP in a page below 4 GiB",
        Place::Window(Side::Low, false),
        &[
            // mov rax, [rip + 0x200]; mov [rip + 0x200], eax
            |a| a.db(&[0x48, 0x8b, 0x05, 0, 2, 0, 0]),
            |a| a.db(&[0x89, 0x05, 0, 2, 0, 0]),
        ],
    ),
];

/// What goes through the window.
const THROUGH: &[One] = &[
    |a| a.mov(rax, qword_ptr(rbx)),
    |a| a.mov(qword_ptr(rbx), rax),
    |a| a.add(dword_ptr(rbx + 8), eax),
    |a| a.mov(ah, byte_ptr(rbx)),
    |a| a.mov(r10, qword_ptr(rbx)),
    |a| a.mov(rax, qword_ptr(r10)),
    |a| a.mov(rax, qword_ptr(rsp + 8)),
    |a| a.mov(qword_ptr(rsp + 8), rax),
    // mov rax, [rip + 0x200]; mov [rip + 0x200], eax
    |a| a.db(&[0x48, 0x8b, 0x05, 0, 2, 0, 0]),
    |a| a.db(&[0x89, 0x05, 0, 2, 0, 0]),
    |a| a.mov(eax, dword_ptr(rbx + rcx * 8 + 0x40)),
    |a| a.mov(dword_ptr(rbx + rcx * 8 + 0x40), eax),
    |a| a.mov(rax, qword_ptr(0x28).fs()),
    |a| a.mov(eax, dword_ptr(0x60_0000)),
    |a| a.bts(qword_ptr(rbx), rcx),
    // Twice by one base: it is asked about once.
    |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rcx, qword_ptr(rbx + 8))
    },
    |a| a.push(rax),
    |a| {
        a.push(rbp)?;
        a.push(rbx)?;
        a.push(r12)
    },
    |a| a.push(qword_ptr(rbx)),
    |a| a.pop(rax),
    |a| {
        a.pop(r12)?;
        a.pop(rbx)?;
        a.pop(rbp)
    },
    |a| {
        a.add(rsp, 0x18)?;
        a.pop(rbx)?;
        a.pop(rbp)?;
        a.ret()
    },
    |a| a.leave(),
    |a| a.mov(rsp, rbp),
    |a| a.sub(rsp, 0x40),
    |a| a.call(TARGET),
    |a| a.call(qword_ptr(rbx)),
    |a| a.jmp(qword_ptr(rbx + rcx * 8)),
    |a| a.ret(),
];

/// Nobody is asked while code is translated.
pub(crate) struct Nobody;

impl Bus for Nobody {
    fn mmio_read(&mut self, _at: Gpa, _size: u8) -> u64 {
        !0
    }
    fn mmio_write(&mut self, _at: Gpa, _size: u8, _value: u64) {}
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        !0
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) {}
    fn msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _index: u32, _value: u64) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _class: u8) {}
    fn acknowledge(&mut self) -> Option<u8> {
        None
    }
}

/// A processor in 64-bit mode in a ring, as Linux has it.
fn processor(ring: u8) -> InterpVcpu {
    let model = CpuModel::by_name("x86-64-v3").expect("a model");
    let memory = Arc::new(GuestMemory::flat(0x1_0000).expect("memory"));
    let mut vcpu = InterpVcpu::new(0, &model, memory, Arc::new(Signals::default()));
    let mut s = CpuState::reset(model.signature(), true);
    let flat = |attributes| Segment {
        selector: 8 | u16::from(ring),
        attributes: Attributes(attributes).with_dpl(ring),
        limit: !0,
        base: 0,
    };
    s.seg = [flat(0xc93); 6];
    s.seg[usize::from(seg::CS)] = flat(0xa9b);
    s.cpl = ring;
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP | cr0::MP;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE | cr4::SMAP;
    s.efer = efer::LME | efer::LMA | efer::SCE;
    s.xcr0 = 7;
    s.rflags = rflags::FIXED | rflags::IF;
    vcpu.set_state(&s).expect("a state");
    vcpu
}

/// Instructions and bytes of a piece of host code.
fn measure(code: &[u8]) -> (usize, usize) {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut count = 0;
    while decoder.can_decode() {
        assert!(!decoder.decode().is_invalid(), "{code:x?}");
        count += 1;
    }
    (count, code.len())
}

/// A translator with a processor of a ring.
pub(crate) struct Golden {
    pub(crate) vcpu: InterpVcpu,
    pub(crate) translator: Translator,
    place: Place,
}

impl Golden {
    pub(crate) fn new(place: Place) -> Golden {
        let (exits, _) = exits(ORIGIN, LEAVE, None, &Switches::default());
        let ring = match place {
            Place::Ring(ring) => ring,
            Place::Window(..) => 3,
        };
        Golden {
            vcpu: processor(ring),
            translator: Translator::new(exits, Box::new(|_| true), Switches::default()),
            place,
        }
    }

    /// Translates the block of an instruction in front of code that needs flags or does not.
    fn block(&mut self, bytes: &[u8], live: bool) -> Output {
        let mut page = Box::new([0xf4; 4096]); // hlt: the interpreter's, which needs all flags
        let mut put = |at: u64, bytes: &[u8]| {
            page[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        let next = AT + bytes.len() as u64;
        put(AT, bytes);
        if !live {
            for at in [next, TARGET, AT - 0x40] {
                put(at, &[0x01, 0xc0]); // add eax, eax
            }
        }
        let (view, side) = match self.place {
            Place::Ring(3) => (View::User, None),
            Place::Ring(_) => (View::Kernel, None),
            Place::Window(side, _) => (View::Window, Some(side)),
        };
        // In front of what is not to be the first: a NOP leaves no trace.
        let before = self.before() as u64;
        if before != 0 {
            put(AT - before, &[0x90]);
        }
        let live_flags = [const { core::cell::Cell::new(0) }; 4096];
        let source = Source {
            rip: AT - before,
            page: &page,
            fixed: None,
            others: &|_| None,
            links_to: &|_| (),
            next: None,
            next_key: 0,
            live: &live_flags,
            view,
            first_site: 0x1000,
            origin: ORIGIN + 0x10_0000,
            cache: ORIGIN,
            cold: ORIGIN + 0x20_0000,
            counter: None,
            copies: false,
            guards: true,
            entry: None,
            side,
        };
        let x = Exec {
            cpu: self.vcpu.cpu(),
            bus: &mut Nobody,
        };
        self.translator.block(&x, &source).expect("a block")
    }

    /// Instructions in front of those that are measured, one byte each.
    fn before(&self) -> usize {
        usize::from(matches!(self.place, Place::Window(_, false)))
    }

    /// Instructions and bytes in line, bytes aside, of so many instructions.
    fn cost(&mut self, bytes: &[u8], guest: usize, live: bool) -> [usize; 3] {
        let whole = self.block(bytes, live);
        let first = self.before();
        let start = whole.map[first].0 as usize;
        let Some(&(end, _)) = whole.map.get(first + guest) else {
            let (count, bytes) = measure(&whole.code[start..]);
            return [count, bytes, 0];
        };
        // What the code behind it costs alone: a NOP in its place, too.
        let rest = self.block(&[0x90], live);
        let (count, bytes) = measure(&whole.code[start..end as usize]);
        let len = |o: &Output| o.code.len() + o.cold.len();
        let aside = len(&whole) - len(&rest) - bytes;
        [count, bytes, aside]
    }
}

fn table() -> String {
    let mut out = String::from(
        "# Host code of guest instructions: instructions and bytes in line, bytes aside, where the\n\
         # flags are needed afterwards and where not. Made by crates/bt/src/golden.rs, which says how.\n",
    );
    for (family, place, list) in FAMILIES {
        let mut golden = Golden::new(*place);
        writeln!(
            out,
            "\n## {family}\n{:40} {:>19} {:>19}",
            "", "flags live", "dead"
        )
        .unwrap();
        let (mut sums, mut guest) = ([0; 2], 0);
        for one in *list {
            let mut a = CodeAssembler::new(64).unwrap();
            one(&mut a).unwrap();
            let bytes = a.assemble(AT).unwrap();
            let run: Vec<_> = Decoder::with_ip(64, &bytes, AT, DecoderOptions::NONE)
                .iter()
                .map(|i| {
                    let mut text = String::new();
                    IntelFormatter::new().format(&i, &mut text);
                    text
                })
                .collect();
            write!(out, "{:40}", run.join("; ")).unwrap();
            for (n, live) in [true, false].into_iter().enumerate() {
                let [count, bytes, aside] = golden.cost(&bytes, run.len(), live);
                write!(out, " {count:5} {bytes:6} {aside:6}").unwrap();
                sums[n] += count;
            }
            guest += 1;
            out.push('\n');
        }
        let mean = |sum: usize| sum as f64 / f64::from(guest);
        writeln!(
            out,
            "{:40} {:5.1} {:19.1}",
            "mean",
            mean(sums[0]),
            mean(sums[1])
        )
        .unwrap();
    }
    out
}

#[test]
fn host_code_of_each_family_is_what_the_golden_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/host-instructions.txt");
    let now = table();
    if std::env::var_os("MOINHO_BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(path).unwrap();
    let mut differences = String::new();
    for (now, golden) in now.lines().zip(golden.lines()).filter(|(a, b)| a != b) {
        writeln!(differences, "- {golden}\n+ {now}").unwrap();
    }
    assert!(
        now == golden,
        "host code has changed; if that is meant: MOINHO_BLESS=1 cargo test -p bt golden\n{differences}"
    );
}

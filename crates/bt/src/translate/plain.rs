//! Instructions that are copied, with their memory operand or a stolen register replaced, and those
//! of the stack.

use super::access::{Address, Holes, Slow, SlowPath};
use super::through::Side;
use super::{Building, field};
use crate::area::Area;
use crate::emit::{FS, Mem, R10, R11, RSI, RSP};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use x86::mmu::Access;

/// The number of a stolen register, if `r` is one or a part of one.
pub(super) fn stolen(r: Register) -> Option<u8> {
    match r.full_register() {
        Register::R10 => Some(R10),
        Register::R11 => Some(R11),
        _ => None,
    }
}

pub(super) fn gpr_number(r: Register) -> Option<u8> {
    (r.is_gpr64() || r.is_gpr32()).then(|| r.number() as u8)
}

/// Of the parts of a register, 1, 2, 4 and 8 bytes, the one in the size of `r`.
pub(super) fn sized(parts: [Register; 4], r: Register) -> Register {
    parts[r.size().min(8).trailing_zeros() as usize]
}

/// The parts of R10.
const R10_PARTS: [Register; 4] = [
    Register::R10L,
    Register::R10W,
    Register::R10D,
    Register::R10,
];

/// An operand is AH, BH, CH or DH.
pub(super) fn names_high_byte(i: &Instruction) -> bool {
    (0..i.op_count()).any(|k| {
        i.op_kind(k) == OpKind::Register
            && matches!(
                i.op_register(k),
                Register::AH | Register::BH | Register::CH | Register::DH
            )
    })
}

/// What RET adds to RSP.
pub(super) fn popped(i: &Instruction) -> i32 {
    8 + i32::from(i.op_count() == 1) * i32::from(i.immediate16())
}

impl Building<'_, '_> {
    /// The stolen registers an instruction uses besides in its address, of which there are two at most:
    /// number, written; and how many.
    fn stolen_operands(&mut self, i: &Instruction) -> ([(u8, bool); 2], usize) {
        let (mut found, mut count) = ([(0, false); 2], 0);
        for k in 0..i.op_count() {
            if i.op_kind(k) != OpKind::Register {
                continue;
            }
            let Some(n) = stolen(i.op_register(k)) else {
                continue;
            };
            let written = self.t.written(i) >> k & 1 != 0;
            match found[..count].iter_mut().find(|f| f.0 == n) {
                Some(f) => f.1 |= written,
                None => {
                    found[count] = (n, written);
                    count += 1;
                }
            }
        }
        (found, count)
    }

    pub(super) fn plain(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let mut again = Vec::new();
        if is_scan(i) && i.has_rep_prefix() {
            let mut native = *i;
            native.set_has_rep_prefix(false);
            if self.t.encoder.encode(&native, 0).is_err() {
                drop(self.t.encoder.take_buffer());
                return self.interpret();
            }
            again = self.t.encoder.take_buffer();
        }
        let bytes = if again.is_empty() { bytes } else { &again };
        let (used, count) = self.stolen_operands(i);
        let used = &used[..count];
        for &(n, _) in used {
            self.asm.load(n, Mem::gs(Area::home(n)));
        }
        self.asm.raw(bytes);
        for &(n, written) in used {
            if written {
                self.asm.store(Mem::gs(Area::home(n)), n);
            }
        }
        false
    }

    /// Appends an instruction that was encoded before, and keeps the vector.
    pub(super) fn encoded(&mut self, mut bytes: Vec<u8>) {
        self.asm.raw(&bytes);
        bytes.clear();
        self.t.encoder.set_buffer(bytes);
    }

    pub(super) fn memory(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let (used, count) = self.stolen_operands(i);
        let used = &used[..count];
        let size = i.memory_size().size();
        let Some(access) = self.t.memory_use(i) else {
            return self.interpret();
        };
        if used.len() > 1 || size == 0 || size > 32 {
            return self.interpret();
        }
        // AH to BH exclude a REX prefix, and with it R10 and R11: RSI is borrowed, which a host fault
        // must not find so.
        let borrow = names_high_byte(i);
        let address = Address::Operand(*i);
        self.by_tlb |= borrow && !self.stays(&address);
        if self.by_window() {
            return self.memory_through(i, bytes, (access, size as u8), used);
        }
        let place = Mem::base(R11, self.grouped.unwrap_or(0));
        if used.is_empty()
            && !self.source.view.is_32bit()
            && let Some((bytes, len)) = with_place(i, bytes, place)
        {
            self.check(address, access, size as u8);
            self.asm.raw(&bytes[..len]);
            return false;
        }
        let mut native = native(i, place);
        if borrow {
            native.set_memory_base(Register::RSI);
        }
        if self.t.encoder.encode(&native, 0).is_err() {
            drop(self.t.encoder.take_buffer());
            return self.interpret();
        }
        let bytes = self.t.encoder.take_buffer();
        self.check(address, access, size as u8);
        if borrow {
            self.asm.store(field::spill, RSI);
            self.asm.mov(RSI, R11);
            self.encoded(bytes);
            self.asm.load(RSI, field::spill);
            return false;
        }
        if let Some(&(n, written)) = used.first() {
            self.asm.load(R10, Mem::gs(Area::home(n)));
            self.encoded(bytes);
            if written {
                self.asm.store(Mem::gs(Area::home(n)), R10);
            }
        } else {
            self.encoded(bytes);
        }
        false
    }

    /// The same through the window.
    fn memory_through(
        &mut self,
        i: &Instruction,
        bytes: &[u8],
        (access, size): (Access, u8),
        used: &[(u8, bool)],
    ) -> bool {
        let address = Address::Operand(*i);
        if let Some(base) = self.stands_twice(&address) {
            return self.memory_twice(i, bytes, base, (access, size), used);
        }
        self.check(address, access, size);
        let Some(code) = self.at(i, bytes, self.place(), !used.is_empty()) else {
            return self.interpret();
        };
        if let Some(&(n, _)) = used.first() {
            self.asm.load(R10, Mem::gs(Area::home(n)));
        }
        self.asm.raw(&code.0[..code.1]);
        if let Some(&(n, true)) = used.first() {
            self.asm.store(Mem::gs(Area::home(n)), R10);
        }
        false
    }

    /// The host's code of an instruction whose memory operand is at a place, with a stolen operand in
    /// R10.
    fn at(
        &mut self,
        i: &Instruction,
        bytes: &[u8],
        place: Mem,
        stolen_too: bool,
    ) -> Option<Placed> {
        if !stolen_too && let Some(placed) = with_place(i, bytes, place) {
            return Some(placed);
        }
        let native = native(i, place);
        let encoded = self.t.encoder.encode(&native, 0).is_ok();
        let mut bytes = self.t.encoder.take_buffer();
        let mut placed = ([0; 24], bytes.len());
        placed.0[..bytes.len()].copy_from_slice(&bytes);
        bytes.clear();
        self.t.encoder.set_buffer(bytes);
        encoded.then_some(placed)
    }

    /// An instruction that stands twice ([`super::through`]): its operand is off a base that is
    /// expected on a side.
    fn memory_twice(
        &mut self,
        i: &Instruction,
        bytes: &[u8],
        (base, disp, side): (u8, i32, Side),
        (access, size): (Access, u8),
        used: &[(u8, bool)],
    ) -> bool {
        let code = [side, side.other()].map(|side| {
            let place = side.place(base, disp);
            self.at(i, bytes, place, !used.is_empty())
        });
        let [Some(first), Some(second)] = code else {
            return self.interpret();
        };
        let retry = self.asm.here();
        let site = self.access_site(access, size.into(), false, retry);
        let (hole, restore) = self.ask_first(base, side);
        self.give_back(restore);
        let from = self.others.len();
        if let Some(&(n, _)) = used.first() {
            let at = self.asm.bytes.len();
            self.asm.load(R10, Mem::gs(Area::home(n)));
            self.others.extend_from_slice(&self.asm.bytes[at..]);
        }
        self.others.extend_from_slice(&second.0[..second.1]);
        self.asm.raw(&first.0[..first.1]);
        let back = self.asm.bytes.len();
        if let Some(&(n, true)) = used.first() {
            self.asm.store(Mem::gs(Area::home(n)), R10);
        }
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore,
            site,
            what: SlowPath::Twice {
                back,
                base,
                side,
                code: from..self.others.len(),
            },
        });
        false
    }

    /// A bit string in memory whose 64-bit word is chosen by a register.
    pub(super) fn bit_string(&mut self, i: &Instruction) -> bool {
        let bit = i.op1_register();
        if i.memory_base().is_gpr32() || i.memory_index().is_gpr32() {
            // The sum wraps at 4 GiB.
            return self.interpret();
        }
        let writes = i.code() != Code::Bt_rm64_r64;
        let access = if writes { Access::Write } else { Access::Read };
        self.check(Address::Bits(*i, bit), access, 8);
        // Only the low six bits of the offset are meant inside the word.
        match stolen(bit) {
            Some(home) => self.asm.load(R10, Mem::gs(Area::home(home))),
            None => self.asm.mov(R10, bit.number() as u8),
        }
        if writes {
            // In memory, so that a LOCK prefix holds: the offset must be reduced here.
            self.asm.pext_gs(R10, R10, field::BIT_MASK);
            let mut native = at_place(i, self.place());
            native.set_op1_register(Register::R10);
            let encoded = self.t.encoder.encode(&native, 0).is_ok();
            let bytes = self.t.encoder.take_buffer();
            if !encoded {
                return self.interpret();
            }
            self.asm.raw(&bytes);
        } else {
            // bt [r11], r10 would be slow: the word in a register, the offset taken modulo 64.
            let place = self.place();
            self.asm.load(R11, place);
            self.asm.raw(&[0x4d, 0x0f, 0xa3, 0xd3]); // bt r11, r10
        }
        false
    }

    pub(super) fn lea(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let to = i.op0_register();
        let odd = i.memory_base() == Register::RIP
            || stolen(to).is_some()
            || stolen(i.memory_base()).is_some()
            || stolen(i.memory_index()).is_some();
        if !odd {
            self.asm.raw(bytes);
            return false;
        }
        let Some(number) = gpr_number(to) else {
            return self.interpret();
        };
        self.address(i, false);
        let register = if stolen(to).is_some() { R11 } else { number };
        if to.is_gpr32() {
            self.asm.lea32(register, Mem::base(R11, 0));
        } else if register != R11 {
            self.asm.mov(register, R11);
        }
        if let Some(home) = stolen(to) {
            self.asm.store(Mem::gs(Area::home(home)), R11);
        }
        false
    }

    pub(super) fn push(&mut self, i: &Instruction) {
        match i.op0_kind() {
            OpKind::Register => {
                let from = i.op0_register();
                self.check(Address::Stack(RSP, -8), Access::Write, 8);
                match stolen(from) {
                    Some(home) => {
                        self.asm.load(R10, Mem::gs(Area::home(home)));
                        self.asm.store(self.place(), R10);
                    }
                    None => self.asm.store(self.place(), from.number() as u8),
                }
                self.asm.lea(RSP, Mem::base(RSP, -8));
            }
            OpKind::Memory => {
                self.check(Address::Operand(*i), Access::Read, 8);
                let place = self.place();
                self.asm.load(R11, place);
                self.asm.store(field::value, R11);
                self.check(Address::Stack(RSP, -8), Access::Write, 8);
                self.asm.load(R10, field::value);
                let place = self.place();
                self.asm.store(place, R10);
                self.asm.lea(RSP, Mem::base(RSP, -8));
            }
            _ => self.push_constant(i.immediate(0)),
        }
    }

    fn push_constant(&mut self, value: u64) {
        self.check(Address::Stack(RSP, -8), Access::Write, 8);
        if let Ok(small) = i32::try_from(value as i64) {
            let place = self.place();
            self.asm.store_imm(place, small);
        } else {
            self.asm.mov_imm(R10, value);
            let place = self.place();
            self.asm.store(place, R10);
        }
        self.asm.lea(RSP, Mem::base(RSP, -8));
    }
}
/// Bytes of an instruction, and how many they are.
type Placed = ([u8; 24], usize);

/// The bytes of an instruction of 64-bit code with its memory operand at a place, off R11 or as it
/// is: without the encoder, which is slower. `None`: what only that can do.
fn with_place(i: &Instruction, bytes: &[u8], place: Mem) -> Option<Placed> {
    if place.base != Some(R11) {
        let (mut out, len) = ([0; 24], usize::from(place.segment != 0));
        out[0] = place.segment;
        let end = len + bytes.len();
        out.get_mut(len..end)?.copy_from_slice(bytes);
        let odd = is_scan(i) && i.has_rep_prefix() || i.has_segment_prefix();
        return (!odd && end <= 15).then_some((out, end));
    }
    let at = place.disp;
    let rep = i.has_rep_prefix() || i.has_repne_prefix();
    if rep || names_high_byte(i) || without_offset(i.code()) != i.code() {
        return None;
    }
    let (mut out, mut len) = ([0; 24], 0);
    let mut put = |byte: u8| {
        out[len] = byte;
        len += 1;
    };
    if place.segment != 0 {
        put(place.segment);
    }
    let mut code = bytes.iter().copied();
    let mut byte = code.next()?;
    loop {
        match byte {
            // Segments and the size of the address are dealt with.
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
            0x66 | 0xf0 | 0xf2 | 0xf3 => put(byte),
            _ => break,
        }
        byte = code.next()?;
    }
    // B says that the base is above R7, and there is no index.
    if matches!(byte, 0xc4 | 0xc5) {
        let (first, second) = if byte == 0xc4 {
            (code.next()?, code.next()?)
        } else {
            let both = code.next()?;
            (both & 0x80 | 1, both & 0x7f)
        };
        [0xc4, first & !0x20 | 0x40, second, code.next()?]
            .into_iter()
            .for_each(&mut put);
    } else {
        let mut rex = 0x40;
        if byte & 0xf0 == 0x40 {
            (rex, byte) = (byte, code.next()?);
        }
        let more_prefixes = byte & 0xf0 == 0x40
            || matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x62 | 0x64..=0x67)
            || matches!(byte, 0x8f | 0xc4 | 0xc5 | 0xf0 | 0xf2 | 0xf3);
        if more_prefixes {
            return None;
        }
        [rex & !2 | 1, byte].into_iter().for_each(&mut put);
        if byte == 0x0f {
            let second = code.next()?;
            put(second);
            if matches!(second, 0x38 | 0x3a) {
                put(code.next()?);
            }
        }
    }
    let modrm = code.next()?;
    let base = match modrm & 7 {
        4 => code.next()? & 7,
        base => base,
    };
    let displacement = match (modrm >> 6, base) {
        (0, 5) | (2, _) => 4,
        (0, _) => 0,
        (1, _) => 1,
        _ => return None,
    };
    (0..displacement).try_for_each(|_| code.next().map(drop))?;
    let (mode, bytes) = match at {
        0 => (0, 0),
        -128..=127 => (0x40, 1),
        _ => (0x80, 4),
    };
    put(mode | modrm & 0x38 | 3);
    at.to_le_bytes()[..bytes].iter().copied().for_each(&mut put);
    code.for_each(put);
    (len <= 15).then_some((out, len))
}

/// An instruction with its memory operand at a place off R11, or as it is.
pub(super) fn at_place(i: &Instruction, place: Mem) -> Instruction {
    let (mut native, at) = (*i, place.disp);
    native.set_segment_prefix(match place.segment {
        FS => Register::FS,
        _ => Register::None,
    });
    if place.base != Some(R11) {
        return native;
    }
    native.set_memory_base(Register::R11);
    native.set_memory_index(Register::None);
    native.set_memory_index_scale(1);
    native.set_memory_displacement64(at as u64);
    native.set_memory_displ_size(u32::from(at != 0));
    native
}

/// The host's instruction with its memory operand at a place, off R11 or as it is, and a stolen operand
/// in R10.
fn native(i: &Instruction, place: Mem) -> Instruction {
    let mut native = at_place(i, place);
    native.set_code(without_offset(i.code()));
    if is_scan(i) {
        native.set_has_rep_prefix(false);
    }
    for k in 0..i.op_count() {
        if i.op_kind(k) == OpKind::Register && stolen(i.op_register(k)).is_some() {
            native.set_op_register(k, sized(R10_PARTS, i.op_register(k)));
        }
    }
    native
}

/// The form with a ModR/M byte of a move with an absolute offset.
fn without_offset(code: Code) -> Code {
    match code {
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        other => other,
    }
}

/// BSF or BSR. A guest processor without TZCNT takes its prefix for nothing; the host does not.
pub(super) fn is_scan(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Encoder};

    #[test]
    fn an_operand_is_replaced_as_by_the_encoder() {
        let samples: &[&[u8]] = &[
            &[0x8b, 0x07],                                     // mov eax, [rdi]
            &[0x48, 0x89, 0x5c, 0x24, 0x10],                   // mov [rsp+16], rbx
            &[0x4c, 0x8b, 0x3d, 1, 2, 3, 4],                   // mov r15, [rip+…]
            &[0x66, 0xc7, 0x84, 0x85, 1, 2, 3, 4, 5, 6],       // mov word [rbp+rax*4+…], …
            &[0x64, 0x48, 0x2b, 0x14, 0x25, 0x28, 0, 0, 0],    // sub rdx, fs:[28h]
            &[0xf0, 0x0f, 0xb1, 0x11],                         // lock cmpxchg [rcx], edx
            &[0xc6, 0x04, 0x2a, 7],                            // mov byte [rdx+rbp], 7
            &[0x40, 0x88, 0x75, 0],                            // mov [rbp], sil
            &[0xf2, 0x0f, 0x10, 0x40, 8],                      // movsd xmm0, [rax+8]
            &[0x66, 0x44, 0x0f, 0x6f, 0x8c, 0xd1, 1, 2, 3, 4], // movdqa xmm9, [rcx+rdx*8+…]
            &[0x66, 0x0f, 0x3a, 0x0f, 0x06, 5],                // palignr xmm0, [rsi], 5
            &[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x02],             // crc32 rax, qword [rdx]
            &[0xc5, 0xfe, 0x6f, 0x04, 0x16],                   // vmovdqu ymm0, [rsi+rdx]
            &[0xc5, 0x79, 0xef, 0x3d, 1, 2, 3, 4],             // vpxor xmm15, xmm0, [rip+…]
            &[0xc4, 0xe2, 0xf9, 0xf7, 0x40, 1],                // shlx rax, [rax+1], rax
            &[0xc4, 0xc3, 0x7d, 0x39, 0x44, 0xd1, 3, 1],       // vextracti128 [r9+rdx*8+3], ymm0, 1
            &[0x67, 0x8b, 0x04, 0x88],                         // mov eax, [eax+ecx*4]
            &[0xdd, 0x04, 0x24],                               // fld qword [rsp]
            &[0x48, 0xf7, 0x44, 0x24, 8, 1, 2, 3, 4],          // test qword [rsp+8], …
        ];
        let decode = |bytes: &[u8]| Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
        for bytes in samples {
            let i = decode(bytes);
            assert_eq!(i.len(), bytes.len(), "{bytes:x?}");
            for (at, segment) in [0, 1, -128, 127, 128, 1000, -4096]
                .into_iter()
                .flat_map(|at| [(at, 0), (at, FS)])
            {
                let place = Mem {
                    segment,
                    ..Mem::base(R11, at)
                };
                let mut encoder = Encoder::new(64);
                encoder.encode(&at_place(&i, place), 0).unwrap();
                let (out, len) = with_place(&i, bytes, place).unwrap();
                assert_eq!(out[..len], encoder.take_buffer(), "{i} at {at}");
            }
        }
    }
}

//! An assembler for the sequences the translator makes itself. Guest instructions are encoded by
//! iced-x86; these few forms are hot and fixed, so they are written as bytes.
//!
//! Registers are their hardware numbers. `GS` operands are displacements in [`crate::area::Area`].

use iced_x86::Register;

/// Scratch registers: guest R10 and R11 live in the area instead.
pub const R10: u8 = 10;
/// See [`R10`].
pub const R11: u8 = 11;
/// RAX.
pub const RAX: u8 = 0;
/// The register that the flag-free check borrows.
pub const RCX: u8 = 1;
/// The stack pointer: the guest's while translated code runs.
pub const RSP: u8 = 4;
/// RDX.
pub const RDX: u8 = 2;
/// RSI.
pub const RSI: u8 = 6;
/// RDI.
pub const RDI: u8 = 7;

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub struct Mem {
    /// Base register.
    pub base: Option<u8>,
    /// Index register (not RSP) and the shift of its scale.
    pub index: Option<(u8, u8)>,
    /// Displacement.
    pub disp: i32,
    /// The prefix of its segment, [`GS`] or [`FS`], or zero.
    pub segment: u8,
}

/// The prefix of `gs`: the area.
pub const GS: u8 = 0x65;
/// The prefix of `fs`: the window ([`crate::window`]).
pub const FS: u8 = 0x64;

impl Mem {
    /// `gs:[disp]`.
    pub const fn gs(disp: i32) -> Mem {
        Mem {
            base: None,
            index: None,
            disp,
            segment: GS,
        }
    }
    /// `gs:[index * 8 + disp]`.
    pub const fn gs_index8(index: u8, disp: i32) -> Mem {
        Mem {
            base: None,
            index: Some((index, 3)),
            disp,
            segment: GS,
        }
    }
    /// `gs:[base + disp]`.
    pub const fn gs_base(base: u8, disp: i32) -> Mem {
        Mem {
            base: Some(base),
            index: None,
            disp,
            segment: GS,
        }
    }
    /// `[base + disp]`.
    pub const fn base(base: u8, disp: i32) -> Mem {
        Mem {
            base: Some(base),
            index: None,
            disp,
            segment: 0,
        }
    }
    /// `[base + index]`.
    pub const fn sum(base: u8, index: u8) -> Mem {
        Mem {
            base: Some(base),
            index: Some((index, 0)),
            disp: 0,
            segment: 0,
        }
    }
}

/// A forward jump whose displacement is filled in later.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub enum Hole {
    /// One byte at this offset.
    Short(usize),
    /// Four bytes at this offset.
    Near(usize),
}

/// The code of one block while it is made: bytes, and the host address of the first.
pub struct Asm {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    /// Host address of `bytes[0]`.
    pub origin: u64,
}

/// The first bytes of an instruction, eight at most.
#[derive(Clone, Copy, Default)]
struct Head {
    bytes: u64,
    bits: u32,
}

impl Head {
    fn push(&mut self, byte: u8) {
        self.bytes |= u64::from(byte) << self.bits;
        self.bits += 8;
    }
    fn len(self) -> usize {
        self.bits as usize / 8
    }
}

/// Code of a few instructions that is the same each time but for one number and the destination of
/// one jump: made once, and copied.
pub struct Pattern {
    bytes: [u8; 80],
    len: usize,
    number: usize,
    hole: usize,
}

impl Asm {
    /// All there is as a pattern, with the number of four bytes at an offset and a hole.
    pub fn pattern(self, number: Option<usize>, hole: Option<Hole>) -> Pattern {
        let len = self.bytes.len();
        let mut bytes = [0; 80];
        bytes[..len].copy_from_slice(&self.bytes);
        let hole = hole.map_or(0, |hole| match hole {
            Hole::Near(at) | Hole::Short(at) => at,
        });
        Pattern {
            bytes,
            len,
            number: number.unwrap_or(0),
            hole,
        }
    }

    /// The code of a pattern; its hole.
    pub fn copy(&mut self, pattern: &Pattern) -> Hole {
        let at = self.bytes.len();
        // Whole and cut: a copy of so many bytes would be a call.
        self.bytes.extend_from_slice(&pattern.bytes);
        self.bytes.truncate(at + pattern.len);
        Hole::Near(at + pattern.hole)
    }

    /// The same with another number.
    pub fn copy_with(&mut self, pattern: &Pattern, number: i32) -> Hole {
        let at = self.bytes.len() + pattern.number;
        let hole = self.copy(pattern);
        self.bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        hole
    }

    /// An empty block at `origin`.
    pub fn new(origin: u64) -> Asm {
        Asm {
            bytes: Vec::with_capacity(2048),
            origin,
        }
    }
    /// An empty block at `origin` that uses this vector.
    pub fn with_buffer(origin: u64, mut bytes: Vec<u8>) -> Asm {
        bytes.clear();
        bytes.reserve(2048);
        Asm { bytes, origin }
    }
    /// Host address of the next byte.
    pub fn here(&self) -> u64 {
        self.origin + self.bytes.len() as u64
    }
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The lowest `len` bytes of a word: written whole and cut, which is one store instead of a
    /// loop.
    fn put_some(&mut self, word: u64, len: usize) {
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(&word.to_le_bytes());
        self.bytes.truncate(end);
    }

    /// `[prefix] [REX] opcode modrm` with a memory operand.
    fn with_mem(&mut self, prefix: Option<u8>, wide: bool, opcode: &[u8], reg: u8, mem: Mem) {
        let mut head = Head::default();
        if mem.segment != 0 {
            head.push(mem.segment);
        }
        if let Some(prefix) = prefix {
            head.push(prefix);
        }
        let index = mem.index.map_or(0, |i| i.0);
        let rex = 0x40
            | u8::from(wide) << 3
            | (reg >> 3) << 2
            | (index >> 3) << 1
            | mem.base.unwrap_or(0) >> 3;
        if rex != 0x40 {
            head.push(rex);
        }
        for byte in opcode {
            head.push(*byte);
        }
        self.modrm_after(head, reg, mem);
    }

    fn modrm(&mut self, reg: u8, mem: Mem) {
        self.modrm_after(Head::default(), reg, mem);
    }

    /// At most six bytes, and the ModR/M byte with what follows.
    fn modrm_after(&mut self, mut head: Head, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        let (index, scale) = mem.index.map_or((4, 0), |(r, s)| (r & 7, s));
        let disp = u64::from(mem.disp as u32);
        let Some(base) = mem.base else {
            // No base: disp32 by way of a SIB byte, since the short form is RIP-relative.
            head.push(reg | 4);
            head.push(scale << 6 | index << 3 | 5);
            self.put_some(head.bytes, head.len());
            self.put_some(disp, 4);
            return;
        };
        let needs_sib = mem.index.is_some() || base & 7 == 4;
        let (mode, bytes) = match mem.disp {
            0 if base & 7 != 5 => (0, 0),
            -128..=127 => (0x40, 1),
            _ => (0x80, 4),
        };
        head.push(mode | reg | if needs_sib { 4 } else { base & 7 });
        if needs_sib {
            head.push(scale << 6 | index << 3 | base & 7);
        }
        self.put_some(head.bytes, head.len());
        if bytes != 0 {
            self.put_some(disp, bytes);
        }
    }

    /// `mov reg, [mem]`, 64 bits.
    pub fn load(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x8b], reg, mem);
    }
    /// `mov reg, [mem]`, 32 bits, zero-extended.
    pub fn load32(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, false, &[0x8b], reg, mem);
    }
    /// `mov [mem], reg`, 64 bits.
    pub fn store(&mut self, mem: Mem, reg: u8) {
        self.with_mem(None, true, &[0x89], reg, mem);
    }
    /// `lea reg, [mem]`.
    pub fn lea(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x8d], reg, mem);
    }
    /// `lea reg32, [mem]`: truncates to 32 bits.
    pub fn lea32(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, false, &[0x8d], reg, mem);
    }
    /// `add reg, [mem]`.
    pub fn add_mem(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x03], reg, mem);
    }
    /// `lea reg, [rip + …]`: the place where the hole is bound.
    pub fn lea_ahead(&mut self, reg: u8) -> Hole {
        self.put(&[0x48 | (reg >> 3) << 2, 0x8d, 5 | (reg & 7) << 3, 0, 0, 0, 0]);
        Hole::Near(self.bytes.len() - 4)
    }
    /// `jmp [mem]`.
    pub fn jmp_mem(&mut self, mem: Mem) {
        self.with_mem(None, false, &[0xff], 4, mem);
    }
    /// `jmp reg`: one of the lower eight.
    pub fn jmp_reg(&mut self, reg: u8) {
        self.put(&[0xff, 0xe0 | reg]);
    }
    /// `mov qword [mem], imm32` (sign-extended).
    pub fn store_imm(&mut self, mem: Mem, value: i32) {
        self.with_mem(None, true, &[0xc7], 0, mem);
        self.put(&value.to_le_bytes());
    }

    /// `mov [mem], reg32`.
    pub fn store32(&mut self, mem: Mem, reg: u8) {
        self.with_mem(None, false, &[0x89], reg, mem);
    }
    /// `mov [mem], reg16`.
    pub fn store16(&mut self, mem: Mem, reg: u8) {
        self.with_mem(Some(0x66), false, &[0x89], reg, mem);
    }
    /// `mov dword [mem], imm32`.
    pub fn store_imm32(&mut self, mem: Mem, value: i32) {
        self.with_mem(None, false, &[0xc7], 0, mem);
        self.put(&value.to_le_bytes());
    }
    /// `movzx to32, from16`.
    pub fn movzx16(&mut self, to: u8, from: u8) {
        self.put(&[0x40 | (to >> 3) << 2 | from >> 3, 0x0f, 0xb7]);
        self.bytes.push(0xc0 | (to & 7) << 3 | from & 7);
    }

    /// `mov reg, value` in the shortest form.
    pub fn mov_imm(&mut self, reg: u8, value: u64) {
        let rex_b = reg >> 3;
        if let Ok(small) = u32::try_from(value) {
            if rex_b != 0 {
                self.bytes.push(0x41);
            }
            self.bytes.push(0xb8 | reg & 7);
            self.put(&small.to_le_bytes());
        } else if let Ok(small) = i32::try_from(value as i64) {
            self.put(&[0x48 | rex_b, 0xc7, 0xc0 | reg & 7]);
            self.put(&small.to_le_bytes());
        } else {
            self.put(&[0x48 | rex_b, 0xb8 | reg & 7]);
            self.put(&value.to_le_bytes());
        }
    }

    /// `mov to, from`, 64 bits.
    pub fn mov(&mut self, to: u8, from: u8) {
        self.registers(0x89, to, from);
    }

    /// `rorx to, from, count`: no flags.
    pub fn rorx(&mut self, to: u8, from: u8, count: u8) {
        let byte1 = (!(to >> 3) & 1) << 7 | 0x40 | (!(from >> 3) & 1) << 5 | 3;
        self.put(&[
            0xc4,
            byte1,
            0xfb,
            0xf0,
            0xc0 | (to & 7) << 3 | from & 7,
            count,
        ]);
    }

    /// `pext to, from, gs:[disp]`: no flags.
    pub fn pext_gs(&mut self, to: u8, from: u8, disp: i32) {
        let byte1 = (!(to >> 3) & 1) << 7 | 0x40 | 0x20 | 2;
        let byte2 = 0x80 | (!from & 15) << 3 | 2;
        self.put(&[0x65, 0xc4, byte1, byte2, 0xf5]);
        self.modrm(to, Mem::gs(disp));
    }

    /// `bt reg, bit`: CF is the bit; the other flags are lost.
    pub fn bt(&mut self, reg: u8, bit: u8) {
        self.put(&[0x48 | reg >> 3, 0x0f, 0xba, 0xe0 | reg & 7, bit]);
    }

    /// `pdep to, from, gs:[disp]`: no flags.
    pub fn pdep_gs(&mut self, to: u8, from: u8, disp: i32) {
        let byte1 = (!(to >> 3) & 1) << 7 | 0x40 | 0x20 | 2;
        let byte2 = 0x80 | (!from & 15) << 3 | 3;
        self.put(&[0x65, 0xc4, byte1, byte2, 0xf5]);
        self.modrm(to, Mem::gs(disp));
    }
    /// `sarx to, gs:[disp], count`: no flags.
    pub fn sarx_gs(&mut self, to: u8, disp: i32, count: u8) {
        let byte1 = (!(to >> 3) & 1) << 7 | 0x40 | 0x20 | 2;
        let byte2 = 0x80 | (!count & 15) << 3 | 2;
        self.put(&[0x65, 0xc4, byte1, byte2, 0xf7]);
        self.modrm(to, Mem::gs(disp));
    }
    /// `sarx to32, from32, count32`: no flags.
    pub fn sarx32(&mut self, to: u8, from: u8, count: u8) {
        self.vex32(0xf7, to, from, count);
    }
    /// `pext to32, from32, mask32`: no flags.
    pub fn pext32(&mut self, to: u8, from: u8, mask: u8) {
        self.vex32(0xf5, to, mask, from);
    }
    /// An instruction of the map 0F38 with prefix F3 (32 bits): registers `reg`, `rm`, `vvvv`.
    fn vex32(&mut self, opcode: u8, reg: u8, rm: u8, vvvv: u8) {
        let byte1 = (!(reg >> 3) & 1) << 7 | 0x40 | (!(rm >> 3) & 1) << 5 | 2;
        let byte2 = (!vvvv & 15) << 3 | 2;
        self.put(&[0xc4, byte1, byte2, opcode, 0xc0 | (reg & 7) << 3 | rm & 7]);
    }
    /// `or reg32, imm32`.
    pub fn or_imm32(&mut self, reg: u8, value: u32) {
        self.put(&[0x40 | reg >> 3, 0x81, 0xc8 | reg & 7]);
        self.put(&value.to_le_bytes());
    }
    /// `test reg32, imm32`.
    pub fn test_imm32(&mut self, reg: u8, value: u32) {
        self.put(&[0x40 | reg >> 3, 0xf7, 0xc0 | reg & 7]);
        self.put(&value.to_le_bytes());
    }
    /// `cmp reg, [mem]`.
    pub fn cmp_mem(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x3b], reg, mem);
    }
    /// `cmp qword [mem], imm8`.
    pub fn cmp_mem_imm8(&mut self, mem: Mem, value: i8) {
        self.with_mem(None, true, &[0x83], 7, mem);
        self.bytes.push(value as u8);
    }
    /// `cmovnz reg, [mem]`.
    pub fn cmovnz(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x0f, 0x45], reg, mem);
    }
    /// `lahf`: SF, ZF, AF, PF and CF into AH.
    pub fn lahf(&mut self) {
        self.put(&[0x9f]);
    }
    /// `seto al`.
    pub fn seto_al(&mut self) {
        self.put(&[0x0f, 0x90, 0xc0]);
    }
    /// The arithmetic flags from AX as [`Self::lahf`] and [`Self::seto_al`] left them: `add al,
    /// 127; sahf`.
    pub fn give_lahf(&mut self) {
        self.put(&[0x04, 0x7f, 0x9e]);
    }
    /// `test reg32, [mem]`.
    pub fn test_mem32(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, false, &[0x85], reg, mem);
    }
    /// `mov reg16, [mem]`.
    pub fn load16(&mut self, reg: u8, mem: Mem) {
        self.with_mem(Some(0x66), false, &[0x8b], reg, mem);
    }
    /// `cmp reg, reg`.
    pub fn cmp(&mut self, a: u8, b: u8) {
        self.registers(0x39, a, b);
    }
    /// `xor reg, reg`.
    pub fn xor(&mut self, to: u8, from: u8) {
        self.registers(0x31, to, from);
    }
    /// `or reg, reg`.
    pub fn or(&mut self, to: u8, from: u8) {
        self.registers(0x09, to, from);
    }
    /// `sub reg, reg`.
    pub fn sub(&mut self, to: u8, from: u8) {
        self.registers(0x29, to, from);
    }
    /// `opcode to, from`, 64 bits, in the form that has `to` in the r/m field.
    fn registers(&mut self, opcode: u8, to: u8, from: u8) {
        let rex = 0x48 | (from >> 3) << 2 | to >> 3;
        self.put(&[rex, opcode, 0xc0 | (from & 7) << 3 | to & 7]);
    }
    /// `sub reg, [mem]`.
    pub fn sub_mem(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x2b], reg, mem);
    }
    /// `sub [mem], reg`.
    pub fn sub_to_mem(&mut self, mem: Mem, reg: u8) {
        self.with_mem(None, true, &[0x29], reg, mem);
    }
    /// `mul qword [mem]`: RDX:RAX becomes RAX times it.
    pub fn mul_mem(&mut self, mem: Mem) {
        self.with_mem(None, true, &[0xf7], 4, mem);
    }
    /// `sar reg, count`.
    pub fn sar(&mut self, reg: u8, count: u8) {
        self.put(&[0x48 | reg >> 3, 0xc1, 0xf8 | reg & 7, count]);
    }
    /// REP MOVS or REP STOS as this instruction has it.
    pub fn rep(&mut self, code: iced_x86::Code) {
        use iced_x86::Code as C;
        let (wide, opcode): (&[u8], u8) = match code {
            C::Movsb_m8_m8 => (&[], 0xa4),
            C::Movsw_m16_m16 => (&[0x66], 0xa5),
            C::Movsd_m32_m32 => (&[], 0xa5),
            C::Movsq_m64_m64 => (&[0x48], 0xa5),
            C::Stosb_m8_AL => (&[], 0xaa),
            C::Stosw_m16_AX => (&[0x66], 0xab),
            C::Stosd_m32_EAX => (&[], 0xab),
            _ => (&[0x48], 0xab),
        };
        // The size prefix may stand before REP, REX must not.
        let (before, after) = if wide == [0x48] {
            (&[][..], wide)
        } else {
            (wide, &[][..])
        };
        self.put(before);
        self.bytes.push(0xf3);
        self.put(after);
        self.bytes.push(opcode);
    }
    /// `imul reg, reg`.
    pub fn imul(&mut self, to: u8, from: u8) {
        let rex = 0x48 | (to >> 3) << 2 | from >> 3;
        self.put(&[rex, 0x0f, 0xaf, 0xc0 | (to & 7) << 3 | from & 7]);
    }
    /// `test reg, reg` of any size.
    pub fn test_with_itself(&mut self, register: Register) {
        let size = register.size();
        let high = matches!(
            register,
            Register::AH | Register::CH | Register::DH | Register::BH
        );
        let n = register.full_register().number() as u8 + 4 * u8::from(high);
        if size == 2 {
            self.bytes.push(0x66);
        }
        let rex = 0x40 | u8::from(size == 8) << 3 | n >> 3 << 2 | n >> 3;
        if rex != 0x40 || size == 1 && !high {
            self.bytes.push(rex);
        }
        self.put(&[0x84 | u8::from(size > 1), 0xc0 | (n & 7) << 3 | n & 7]);
    }
    /// `add reg, constant` or `sub reg, constant`, of 64 or 32 bits.
    pub fn add_constant(&mut self, reg: u8, constant: i32, subtracts: bool, wide: bool) {
        let rex = 0x40 | u8::from(wide) << 3 | reg >> 3;
        let modrm = if subtracts { 0xe8 } else { 0xc0 } | reg & 7;
        match i8::try_from(constant) {
            Ok(small) => self.put(&[rex, 0x83, modrm, small as u8]),
            Err(_) => {
                self.put(&[rex, 0x81, modrm]);
                self.put(&constant.to_le_bytes());
            }
        }
    }
    /// `not reg`.
    pub fn not(&mut self, reg: u8) {
        self.put(&[0x48 | reg >> 3, 0xf7, 0xd0 | reg & 7]);
    }
    /// `neg reg`.
    pub fn neg(&mut self, reg: u8) {
        self.put(&[0x48 | reg >> 3, 0xf7, 0xd8 | reg & 7]);
    }
    /// `xor reg, imm8`.
    pub fn xor_imm8(&mut self, reg: u8, value: i8) {
        self.put(&[0x48 | reg >> 3, 0x83, 0xf0 | reg & 7, value as u8]);
    }
    /// `and reg, -4096`: the page of an address.
    pub fn and_page(&mut self, reg: u8) {
        self.put(&[0x48 | reg >> 3, 0x81, 0xe0 | reg & 7]);
        self.put(&(-4096i32).to_le_bytes());
    }
    /// `shl reg, count`.
    pub fn shl(&mut self, reg: u8, count: u8) {
        self.put(&[0x48 | reg >> 3, 0xc1, 0xe0 | reg & 7, count]);
    }
    /// `shr reg, count`.
    pub fn shr(&mut self, reg: u8, count: u8) {
        self.put(&[0x48 | reg >> 3, 0xc1, 0xe8 | reg & 7, count]);
    }
    /// `pushfq; pop reg` with a host stack.
    pub fn take_flags(&mut self, reg: u8) {
        self.put(&[0x9c, 0x40 | reg >> 3, 0x58 | reg & 7]);
    }
    /// `push reg; popfq` with a host stack.
    pub fn give_flags(&mut self, reg: u8) {
        self.put(&[0x40 | reg >> 3, 0x50 | reg & 7, 0x9d]);
    }
    /// `cmova reg, [mem]`.
    pub fn cmova_mem(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, true, &[0x0f, 0x47], reg, mem);
    }
    /// `cmova to, from`.
    pub fn cmova(&mut self, to: u8, from: u8) {
        self.put(&[0x48 | (to >> 3) << 2 | from >> 3, 0x0f, 0x47]);
        self.bytes.push(0xc0 | (to & 7) << 3 | from & 7);
    }
    /// `and reg32, imm32`.
    pub fn and_imm32(&mut self, reg: u8, value: u32) {
        self.put(&[0x40 | reg >> 3, 0x81, 0xe0 | reg & 7]);
        self.put(&value.to_le_bytes());
    }
    /// `cmp reg, imm32`, 64 bits.
    pub fn cmp_imm(&mut self, reg: u8, value: i32) {
        self.put(&[0x48 | reg >> 3, 0x81, 0xf8 | reg & 7]);
        self.put(&value.to_le_bytes());
    }

    /// `mov byte [mem], imm8`.
    pub fn store_imm8(&mut self, mem: Mem, value: u8) {
        self.with_mem(None, false, &[0xc6], 0, mem);
        self.bytes.push(value);
    }
    /// `and reg32, [mem]`.
    pub fn and_mem32(&mut self, reg: u8, mem: Mem) {
        self.with_mem(None, false, &[0x23], reg, mem);
    }
    /// `xsave64 [mem]`.
    pub fn xsave64(&mut self, mem: Mem) {
        self.with_mem(None, true, &[0x0f, 0xae], 4, mem);
    }
    /// `xrstor64 [mem]`.
    pub fn xrstor64(&mut self, mem: Mem) {
        self.with_mem(None, true, &[0x0f, 0xae], 5, mem);
    }

    /// `jcc` forward, near.
    pub fn jcc(&mut self, cc: u8) -> Hole {
        self.put(&[0x0f, 0x80 | cc, 0, 0, 0, 0]);
        Hole::Near(self.bytes.len() - 4)
    }
    /// `jcc` forward, over less than 128 bytes.
    pub fn jcc_short(&mut self, cc: u8) -> Hole {
        self.put(&[0x70 | cc, 0]);
        Hole::Short(self.bytes.len() - 1)
    }
    /// `jmp` forward, near.
    pub fn jmp(&mut self) -> Hole {
        self.put(&[0xe9, 0, 0, 0, 0]);
        Hole::Near(self.bytes.len() - 4)
    }
    /// `jrcxz` forward.
    pub fn jrcxz(&mut self) -> Hole {
        self.put(&[0xe3, 0]);
        Hole::Short(self.bytes.len() - 1)
    }
    /// Fills a hole so that it leads here.
    pub fn bind(&mut self, hole: Hole) {
        let here = self.bytes.len();
        match hole {
            Hole::Short(at) => {
                let distance = here - (at + 1);
                assert!(distance < 128, "short jump too far");
                self.bytes[at] = distance as u8;
            }
            Hole::Near(at) => {
                let distance = (here - (at + 4)) as u32;
                self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
            }
        }
    }
    /// Fills a near hole so that it leads to a host address within 2 GiB.
    pub fn bind_to(&mut self, hole: Hole, host: u64) {
        let (Hole::Near(at) | Hole::Short(at)) = hole;
        debug_assert!(matches!(hole, Hole::Near(_)), "a short jump is too short");
        let from = self.origin + at as u64 + 4;
        let distance = host.wrapping_sub(from) as i32;
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }
    /// `jmp` to a host address within 2 GiB.
    pub fn jmp_to(&mut self, host: u64) {
        let from = self.here() + 5;
        self.bytes.push(0xe9);
        self.put(&(host.wrapping_sub(from) as i32).to_le_bytes());
    }
    /// `jmp` to a host address that is at most 126 bytes before this one.
    pub fn jmp_back(&mut self, host: u64) {
        let from = self.here() + 2;
        self.put(&[0xeb, host.wrapping_sub(from) as u8]);
    }
    /// Adds one to the word at a host address, without touching flags. R10 and R11 are lost.
    pub fn count_at(&mut self, host: u64) {
        self.mov_imm(R10, host);
        self.load(R11, Mem::base(R10, 0));
        self.lea(R11, Mem::base(R11, 1));
        self.store(Mem::base(R10, 0), R11);
    }
    /// Raw bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        // An instruction by way of words: a copy of so many bytes would be a call. The second word
        // ends with the bytes and is shifted to where the first one has ended.
        let len = bytes.len();
        if let (8..=16, Some(first), Some(last)) = (len, bytes.first_chunk(), bytes.last_chunk()) {
            self.put_some(u64::from_le_bytes(*first), 8);
            if len > 8 {
                self.put_some(u64::from_le_bytes(*last) >> (8 * (16 - len)), len - 8);
            }
        } else if let (4..8, Some(first), Some(last)) =
            (len, bytes.first_chunk(), bytes.last_chunk())
        {
            self.put_some(u32::from_le_bytes(*first).into(), 4);
            if len > 4 {
                let last = u64::from(u32::from_le_bytes(*last));
                self.put_some(last >> (8 * (8 - len)), len - 4);
            }
        } else {
            self.put(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    fn text(f: impl FnOnce(&mut Asm)) -> String {
        let mut asm = Asm::new(0x1000);
        f(&mut asm);
        let mut out = String::new();
        let mut decoder = Decoder::with_ip(64, &asm.bytes, 0x1000, DecoderOptions::NONE);
        while decoder.can_decode() {
            IntelFormatter::new().format(&decoder.decode(), &mut out);
            out.push(';');
        }
        out
    }

    #[test]
    fn raw_bytes_come_as_they_are() {
        let bytes: Vec<u8> = (1..=20).collect();
        for len in 0..=20 {
            let mut asm = Asm::new(0x1000);
            asm.raw(&[0xff]);
            asm.raw(&bytes[..len]);
            asm.raw(&[0xfe]);
            assert_eq!(asm.bytes, [&[0xff], &bytes[..len], &[0xfe]].concat());
        }
    }

    #[test]
    fn each_form_is_the_instruction_it_says() {
        for (bytes, expected) in [
            (text(|a| a.load(R10, Mem::gs(0x50))), "mov r10,gs:[50h];"),
            (text(|a| a.test_with_itself(Register::AH)), "test ah,ah;"),
            (text(|a| a.test_with_itself(Register::CL)), "test cl,cl;"),
            (text(|a| a.test_with_itself(Register::SIL)), "test sil,sil;"),
            (text(|a| a.test_with_itself(Register::R9L)), "test r9b,r9b;"),
            (text(|a| a.test_with_itself(Register::DX)), "test dx,dx;"),
            (text(|a| a.test_with_itself(Register::EBP)), "test ebp,ebp;"),
            (text(|a| a.test_with_itself(Register::R13)), "test r13,r13;"),
            (text(|a| a.add_constant(R10, 8, false, true)), "add r10,8;"),
            (
                text(|a| a.add_constant(R10, 0x1234, true, false)),
                "sub r10d,1234h;",
            ),
            (text(|a| a.store(Mem::gs(0x8), RCX)), "mov gs:[8],rcx;"),
            (
                text(|a| a.load(R10, Mem::gs_base(R10, 0x1234))),
                "mov r10,gs:[r10+1234h];",
            ),
            (
                text(|a| a.load(RCX, Mem::gs_index8(R10, 0x40))),
                "mov rcx,gs:[r10*8+40h];",
            ),
            (text(|a| a.lea(R11, Mem::base(RSP, -8))), "lea r11,[rsp-8];"),
            (text(|a| a.lea(R11, Mem::base(5, 0))), "lea r11,[rbp];"),
            (text(|a| a.lea(R11, Mem::base(13, 0))), "lea r11,[r13];"),
            (text(|a| a.lea(R11, Mem::sum(12, 13))), "lea r11,[r12+r13];"),
            (text(|a| a.rorx(R10, R11, 8)), "rorx r10,r11,8;"),
            (
                text(|a| a.pext_gs(R10, R11, 0x90)),
                "pext r10,r11,gs:[90h];",
            ),
            (
                text(|a| a.pext_gs(RCX, RCX, 0x90)),
                "pext rcx,rcx,gs:[90h];",
            ),
            (text(|a| a.and_imm32(R10, 0x3ff0)), "and r10d,3FF0h;"),
            (text(|a| a.cmp_imm(R11, 0xff8)), "cmp r11,0FF8h;"),
            (
                text(|a| a.add_mem(R11, Mem::gs_base(R10, 0x100))),
                "add r11,gs:[r10+100h];",
            ),
            (
                text(|a| a.mov_imm(R11, 0xffff_ffff_8100_0000)),
                "mov r11,0FFFFFFFF81000000h;",
            ),
            (
                text(|a| a.mov_imm(R11, 0x7fff_1234_5678)),
                "mov r11,7FFF12345678h;",
            ),
            (text(|a| a.mov(R11, 4)), "mov r11,rsp;"),
            (
                text(|a| a.jmp_mem(Mem::gs_index8(R10, 8))),
                "jmp qword ptr gs:[r10*8+8];",
            ),
            (
                text(|a| a.pdep_gs(R10, R10, 0x90)),
                "pdep r10,r10,gs:[90h];",
            ),
            (
                text(|a| a.sarx_gs(R10, 0x90, R11)),
                "sarx r10,gs:[90h],r11;",
            ),
            (text(|a| a.cmp(R10, 9)), "cmp r10,r9;"),
            (text(|a| a.sub(R11, 7)), "sub r11,rdi;"),
            (text(|a| a.cmova(R10, 9)), "cmova r10,r9;"),
            (text(|a| a.sarx32(R10, 6, 9)), "sarx r10d,esi,r9d;"),
            (text(|a| a.pext32(R10, 3, 9)), "pext r10d,ebx,r9d;"),
            (text(|a| a.movzx16(R11, R11)), "movzx r11d,r11w;"),
            (text(|a| a.movzx16(R11, 3)), "movzx r11d,bx;"),
            (
                text(|a| a.store32(Mem::sum(R10, R11), 6)),
                "mov [r10+r11],esi;",
            ),
            (
                text(|a| a.store16(Mem::sum(R10, R11), 6)),
                "mov [r10+r11],si;",
            ),
            (
                text(|a| a.store_imm32(Mem::sum(R10, R11), -2)),
                "mov dword ptr [r10+r11],0FFFFFFFEh;",
            ),
            (text(|a| a.or_imm32(R11, 0x202)), "or r11d,202h;"),
            (text(|a| a.test_imm32(R11, 0x200)), "test r11d,200h;"),
            (text(|a| a.cmp_mem(R10, Mem::gs(0x70))), "cmp r10,gs:[70h];"),
            (
                text(|a| a.cmp_mem_imm8(Mem::gs(0x70), 2)),
                "cmp qword ptr gs:[70h],2;",
            ),
            (
                text(|a| a.cmovnz(R10, Mem::gs(0x70))),
                "cmovne r10,gs:[70h];",
            ),
            (text(|a| a.shr(R10, 47)), "shr r10,2Fh;"),
            (text(|a| a.shl(RCX, 4)), "shl rcx,4;"),
            (text(|a| a.load16(3, Mem::gs(0x70))), "mov bx,gs:[70h];"),
            (text(|a| a.cmp(RCX, R11)), "cmp rcx,r11;"),
            (text(|a| a.xor(RCX, R10)), "xor rcx,r10;"),
            (
                text(|a| a.cmova_mem(R11, Mem::gs(0x70))),
                "cmova r11,gs:[70h];",
            ),
            (text(|a| a.or(RAX, RDX)), "or rax,rdx;"),
            (text(|a| a.sub(R11, RSI)), "sub r11,rsi;"),
            (text(|a| a.sub_mem(RAX, Mem::gs(0x70))), "sub rax,gs:[70h];"),
            (
                text(|a| a.sub_to_mem(Mem::gs(0x70), R10)),
                "sub gs:[70h],r10;",
            ),
            (
                text(|a| a.mul_mem(Mem::gs(0x70))),
                "mul qword ptr gs:[70h];",
            ),
            (text(|a| a.sar(R10, 16)), "sar r10,10h;"),
            (
                text(|a| a.rep(iced_x86::Code::Movsw_m16_m16)),
                "rep movsw [rdi],[rsi];",
            ),
            (
                text(|a| a.rep(iced_x86::Code::Stosq_m64_RAX)),
                "rep stosq [rdi];",
            ),
            (text(|a| a.lahf()), "lahf;"),
            (text(|a| a.seto_al()), "seto al;"),
            (text(|a| a.give_lahf()), "add al,7Fh;sahf;"),
            (
                text(|a| a.test_mem32(R11, Mem::gs(0x70))),
                "test gs:[70h],r11d;",
            ),
            (
                text(|a| a.and_mem32(RAX, Mem::gs(0x70))),
                "and eax,gs:[70h];",
            ),
            (
                text(|a| a.store_imm8(Mem::gs_base(R10, 0x70), 1)),
                "mov byte ptr gs:[r10+70h],1;",
            ),
            (text(|a| a.xsave64(Mem::gs(0x70))), "xsave64 gs:[70h];"),
            (text(|a| a.xrstor64(Mem::gs(0x70))), "xrstor64 gs:[70h];"),
            (text(|a| a.imul(RCX, R11)), "imul rcx,r11;"),
            (text(|a| a.not(R11)), "not r11;"),
            (text(|a| a.neg(RCX)), "neg rcx;"),
            (text(|a| a.xor_imm8(RCX, 16)), "xor rcx,10h;"),
            (text(|a| a.and_page(R11)), "and r11,0FFFFFFFFFFFFF000h;"),
            (text(|a| a.take_flags(R10)), "pushfq;pop r10;"),
            (text(|a| a.give_flags(R11)), "push r11;popfq;"),
            (
                text(|a| a.jmp_to(0x2000)),
                "jmp near ptr 0000000000002000h;",
            ),
        ] {
            assert_eq!(
                bytes.replace("near ptr ", "").replace(' ', ""),
                expected.replace("near ptr ", "").replace(' ', "")
            );
        }
    }
}

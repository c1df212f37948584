//! Displacements of [`Area`] fields that code uses.

use crate::area::Area;
use crate::emit::Mem;
use core::mem::offset_of;

macro_rules! fields {
    ($($name:ident)*) => { $(pub const $name: Mem = Mem::gs(offset_of!(Area, $name) as i32);)* };
}

#[allow(non_upper_case_globals)]
mod named {
    use super::*;
    fields!(page passes rip reason detail site slot group spill value saved sites cache targets hash target pins bell pin_mask
        pins_off pins_on fs_way fs_base gs_base high high_off high_on ring syscall_bad iret_bad lstar
        kernel_cs kernel_ss user_cs user_ss cs ss ds es fs gs tsc_base tsc_factor tsc_add tsc_aux fs_bar gs_bar kernel_gs_base host_rsp
        cr0 cr2 cr3 cr4 xcr0 image image_last lahf window from_window);
}

pub use named::*;

pub const TLB_MASK: i32 = offset_of!(Area, tlb_mask) as i32;
pub const BRANCH_MASK: i32 = offset_of!(Area, branch_mask) as i32;
pub const CODE_MASK: i32 = offset_of!(Area, code_mask) as i32;
pub const PASS_MASK: i32 = offset_of!(Area, pass_mask) as i32;
pub const PAGE_MASK: i32 = offset_of!(Area, page_mask) as i32;
pub const HOST_FLAGS: i32 = offset_of!(Area, host_flags) as i32;
pub const VALUE: i32 = offset_of!(Area, value) as i32;
pub const WINDOW_BIT: i32 = offset_of!(Area, window_bit) as i32;
pub const FAULT_R10: Mem = Mem::gs(offset_of!(Area, fault.r10) as i32);
pub const FAULT_R11: Mem = Mem::gs(offset_of!(Area, fault.r11) as i32);
pub const FAULT_AT: Mem = Mem::gs(offset_of!(Area, fault.at) as i32);
pub const BIT_MASK: i32 = offset_of!(Area, bit_mask) as i32;
pub const PIN_MASK: i32 = offset_of!(Area, pin_mask) as i32;

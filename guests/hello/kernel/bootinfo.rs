//! What the boot loader said: memory map and ACPI root pointer, from PVH's `hvm_start_info` or multiboot's
//! information structure. Both are read through the direct map and copied before anything else uses memory.

use crate::abi::MemoryInfo;
use crate::boot::MULTIBOOT_MAGIC;
use crate::paging::read_physical;

const PVH_MAGIC: u32 = 0x336e_c578;
const RAM: u64 = 1;

/// The machine, as the loader describes it.
pub struct BootInfo {
    /// Which protocol it was.
    pub protocol: &'static str,
    /// Ranges of memory.
    pub memory: [MemoryInfo; 32],
    /// How many of them.
    pub regions: usize,
    /// ACPI root pointer, guest-physical; 0 if none was given or found.
    pub rsdp: u64,
}

impl BootInfo {
    /// Reads what `ebx` pointed to at the entry; `magic` was `eax`.
    pub fn read(info: u64, magic: u32) -> BootInfo {
        let mut this = BootInfo {
            protocol: "none",
            memory: [MemoryInfo::default(); 32],
            regions: 0,
            rsdp: 0,
        };
        // PVH leaves eax open, and qboot passes multiboot's magic in it: look at the structure first.
        if info != 0 && read_physical::<u32>(info) == PVH_MAGIC {
            this.read_pvh(info);
        } else if magic == MULTIBOOT_MAGIC {
            this.read_multiboot(info);
        }
        if this.rsdp == 0 {
            this.rsdp = crate::acpi::search_rsdp().unwrap_or(0);
        }
        this
    }

    fn add(&mut self, start: u64, len: u64, kind: u64) {
        if self.regions < self.memory.len() {
            self.memory[self.regions] = MemoryInfo { start, len, kind };
            self.regions += 1;
        }
    }

    /// Xen, `public/arch-x86/hvm/start_info.h`.
    fn read_pvh(&mut self, info: u64) {
        self.protocol = "PVH";
        self.rsdp = read_physical(info + 32);
        if read_physical::<u32>(info + 4) >= 1 {
            let (table, entries) = (
                read_physical::<u64>(info + 40),
                read_physical::<u32>(info + 48),
            );
            for entry in (0..u64::from(entries)).map(|n| table + 24 * n) {
                self.add(
                    read_physical(entry),
                    read_physical(entry + 8),
                    read_physical::<u32>(entry + 16).into(),
                );
            }
        }
    }

    /// Multiboot specification 0.6.96, "Boot information format".
    fn read_multiboot(&mut self, info: u64) {
        self.protocol = "multiboot";
        let flags: u32 = read_physical(info);
        if flags & 1 << 6 != 0 {
            let (len, table): (u32, u32) = (read_physical(info + 44), read_physical(info + 48));
            let (mut at, end) = (u64::from(table), u64::from(table) + u64::from(len));
            while at < end {
                // An entry's size does not count the size field itself.
                let size: u32 = read_physical(at);
                self.add(
                    read_physical(at + 4),
                    read_physical(at + 12),
                    read_physical::<u32>(at + 20).into(),
                );
                at += u64::from(size) + 4;
            }
        } else if flags & 1 != 0 {
            let (lower, upper): (u32, u32) = (read_physical(info + 4), read_physical(info + 8));
            self.add(0, u64::from(lower) << 10, RAM);
            self.add(0x10_0000, u64::from(upper) << 10, RAM);
        }
    }

    /// The largest range of RAM from `from` on and below `to`.
    pub fn largest_ram(&self, from: u64, to: u64) -> (u64, u64) {
        let clipped = self.memory[..self.regions]
            .iter()
            .filter(|r| r.kind == RAM)
            .map(|r| (r.start.max(from), (r.start.saturating_add(r.len)).min(to)));
        clipped
            .filter(|(start, end)| start < end)
            .max_by_key(|(start, end)| end - start)
            .unwrap_or((from, from))
    }
}

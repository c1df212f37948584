//! What a run has cost, in numbers: the machine's own, and the host's from `/proc/self`.

use machine::stats::{DeviceStats, VcpuStats};
use serde::Serialize;
use std::fs;

/// What the process has used of the host.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct HostStats {
    /// Processor time of all threads, in seconds.
    pub cpu_s: f64,
    /// Resident memory now, in KiB.
    pub rss_kib: u64,
    /// The most it ever was.
    pub peak_rss_kib: u64,
    /// Resident memory of the guest's RAM, in KiB.
    pub guest_ram_kib: u64,
    /// Resident memory beside the guest's RAM, in KiB.
    pub overhead_kib: u64,
}

/// An engine's own numbers for one processor, in its order.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct EngineCounts(pub Vec<(String, u64)>);

impl Serialize for EngineCounts {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, n)| (name, n)))
    }
}

/// What a run has cost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stats {
    /// The engine's name.
    pub engine: String,
    /// Why it was chosen.
    pub engine_reason: String,
    /// Each processor.
    pub vcpus: Vec<VcpuStats>,
    /// What the engine counts beside that, for each processor.
    pub engine_counts: Vec<EngineCounts>,
    /// Each device that was asked.
    pub devices: Vec<DeviceStats>,
    /// Resets of the machine.
    pub resets: u64,
    /// Host time from power-on to the end, in seconds.
    pub wall_s: f64,
    /// Guest time, in seconds.
    pub guest_s: f64,
    /// Million guest instructions per second of wall time.
    pub mips: f64,
    /// The host's share.
    pub host: HostStats,
}

/// Ticks of `/proc/self/stat` per second: USER_HZ, 100 on every Linux port.
const USER_HZ: f64 = 100.0;

impl HostStats {
    /// Reads `/proc/self`; `guest_ram` is the size of the guest's memory in bytes. What cannot be
    /// read is zero.
    pub fn now(guest_ram: u64) -> HostStats {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss_kib = field_kib(&status, "VmRSS:");
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let guest_ram_kib = resident_kib(&smaps, guest_ram / 1024);
        HostStats {
            cpu_s: fs::read_to_string("/proc/self/stat").map_or(0.0, |stat| cpu_s(&stat)),
            rss_kib,
            peak_rss_kib: field_kib(&status, "VmHWM:"),
            guest_ram_kib,
            overhead_kib: share_kib(&smaps).saturating_sub(guest_ram_kib),
        }
    }
}

fn field_kib(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// utime + stime, the 14th and 15th fields; the second may hold blanks.
fn cpu_s(stat: &str) -> f64 {
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |n: usize| -> f64 { fields.get(n).and_then(|f| f.parse().ok()).unwrap_or(0.0) };
    (ticks(11) + ticks(12)) / USER_HZ
}

/// The process's share of the memory it has mapped: a page that is mapped twice, as the
/// translator's code is, is one page, which VmRSS counts twice.
fn share_kib(smaps: &str) -> u64 {
    let shares = smaps.lines().filter(|line| line.starts_with("Pss:"));
    shares.map(|line| field_kib(line, "Pss:")).sum()
}

/// The resident part of the smallest mapping that can hold the guest's RAM.
fn resident_kib(smaps: &str, guest_kib: u64) -> u64 {
    let (mut best, mut size) = ((u64::MAX, 0), 0);
    for line in smaps.lines() {
        if line.starts_with("Size:") {
            size = field_kib(line, "Size:");
        } else if line.starts_with("Rss:") && size >= guest_kib && size < best.0 {
            best = (size, field_kib(line, "Rss:"));
        }
    }
    best.1
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "engine        {} ({})", self.engine, self.engine_reason)?;
        writeln!(
            f,
            "time          {:.3} s wall, {:.3} s guest, {:.2} s host processor, {} resets",
            self.wall_s, self.guest_s, self.host.cpu_s, self.resets
        )?;
        writeln!(f, "speed         {:.1} MIPS", self.mips)?;
        writeln!(
            f,
            "host memory   {} KiB, {} KiB of it beside guest RAM; peak {} KiB",
            self.host.rss_kib, self.host.overhead_kib, self.host.peak_rss_kib
        )?;
        for (cpu, v) in self.vcpus.iter().enumerate() {
            writeln!(
                f,
                "cpu{cpu:<10} {} instructions, {} exceptions, {} interrupts, {} mmio, {} port, {} blocks decoded, {} page walks",
                v.instructions,
                v.exceptions,
                v.interrupts,
                v.mmio,
                v.port,
                v.blocks_decoded,
                v.page_walks
            )?;
        }
        for (cpu, counts) in self.engine_counts.iter().enumerate() {
            for (name, n) in counts.0.iter().filter(|(_, n)| *n > 0) {
                writeln!(f, "cpu{cpu:<10} {name}: {n}")?;
            }
        }
        for (cpu, v) in self.vcpus.iter().enumerate() {
            if v.guest_s + v.host_s > 0.0 {
                writeln!(
                    f,
                    "cpu{cpu:<10} {:.3} s in the guest, {:.3} s outside",
                    v.guest_s, v.host_s
                )?;
            }
        }
        for d in &self.devices {
            writeln!(f, "{:<13} {} reads, {} writes", d.name, d.reads, d.writes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_proc_are_read() {
        assert_eq!(
            field_kib("VmHWM:\t  120 kB\nVmRSS:\t 64 kB\n", "VmRSS:"),
            64
        );
        let stat = "12 (a b) c) S 1 1 1 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(cpu_s(stat), 3.0);
        let smaps = "0-1 rw-p\nSize: 100 kB\nRss: 9 kB\n1-2 rw-p\nSize: 2000 kB\nRss: 70 kB\n2-3\nSize: 99999 kB\nRss: 1 kB\n";
        assert_eq!(resident_kib(smaps, 1024), 70);
    }
}

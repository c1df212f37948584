//! The two chipset functions every PC has, by the ids of the 82441FX host bridge ("440FX PCIset",
//! Intel 1996) and the PIIX3 ISA bridge ("82371SB", Intel 1997), which firmware and operating
//! systems recognise.
//!
//! Not modelled: what the registers switch. PAM and SMRAM are stored, the shadow area is always
//! RAM; PIRQ routing is stored, the board's wiring is fixed.

use super::{ConfigSpace, PciFunction};

/// Host bridge, 8086:1237, to be put at slot 0.
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x1237, 0x06_00_00, 2);
        config.subsystem(0x1af4, 0x1100);
        // PAM0 to PAM6, DRB0 to DRB7, SMRAM.
        config.allow(0x59, &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        config.allow(0x60, &[0xff; 8]);
        config.fix(0x72, &[0x02]);
        config.allow(0x72, &[0x78]);
        HostBridge(config)
    }
}

impl PciFunction for HostBridge {
    fn name(&self) -> &'static str {
        "i440fx"
    }
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
}

/// ISA bridge, 8086:7000, to be put at slot 1.
pub struct IsaBridge(ConfigSpace);

impl Default for IsaBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x7000, 0x06_01_00, 0);
        config.subsystem(0x1af4, 0x1100);
        // PIRQRCA# to PIRQRCD#, disabled at reset.
        config.fix(0x60, &[0x80; 4]);
        config.allow(0x60, &[0x8f; 4]);
        // X-bus chip select; DLC (passive release, delayed transactions).
        config.fix(0x4e, &[0x03, 0x00]);
        config.allow(0x4e, &[0xff, 0x01]);
        config.allow(0x82, &[0x0f]);
        IsaBridge(config)
    }
}

impl PciFunction for IsaBridge {
    fn name(&self) -> &'static str {
        "piix3"
    }
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
}

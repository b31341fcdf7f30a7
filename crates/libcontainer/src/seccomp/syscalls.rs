//! Architectures, and the numbers of their system calls by name.

use super::{aarch64, arm, i386, x32, x86_64};

/// An ABI by which a process can enter the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    I386,
    /// 64-bit x86 with 32-bit pointers.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
}

/// The bit that marks an x32 call; its `arch` is that of x86-64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Arch {
    /// What this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Self = Self::X86_64;
    /// What this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Self = Self::Aarch64;

    /// Every ABI that is known.
    pub const ALL: [Self; 5] = [Self::X86_64, Self::I386, Self::X32, Self::Aarch64, Self::Arm];

    /// Every ABI of this machine, its own one first.
    #[must_use]
    pub fn of_machine() -> &'static [Self] {
        match Self::NATIVE {
            Self::Aarch64 | Self::Arm => &[Self::Aarch64, Self::Arm],
            _ => &[Self::X86_64, Self::I386, Self::X32],
        }
    }

    /// By libseccomp's name. `Ok(None)` for one that this machine can never run.
    pub(crate) fn from_name(name: &str) -> Result<Option<Self>, super::Error> {
        if let Some(known) = Self::ALL.into_iter().find(|arch| arch.name() == name) {
            return Ok(Self::of_machine().contains(&known).then_some(known));
        }
        match name.strip_prefix("SCMP_ARCH_").unwrap_or_default() {
            "MIPS" | "MIPS64" | "MIPS64N32" | "MIPSEL" | "MIPSEL64" | "MIPSEL64N32" | "PPC" | "PPC64" | "PPC64LE"
            | "S390" | "S390X" | "PARISC" | "PARISC64" | "RISCV64" | "LOONGARCH64" | "M68K" | "SH" | "SHEB" => Ok(None),
            _ => Err(super::Error::Invalid(format!("unknown architecture {name:?}"))),
        }
    }

    /// libseccomp's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::I386 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// The name in the `arches` lists of Docker's profiles.
    #[must_use]
    pub fn docker_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::I386 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
        }
    }

    /// `AUDIT_ARCH_*`, as `seccomp_data.arch` has it.
    #[must_use]
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number of a call, x32's bit included; `None` where the architecture does not have it.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u32> {
        let find = |table: &[(&str, u32)]| table.binary_search_by_key(&name, |e| e.0).ok().map(|i| table[i].1);
        match self {
            Self::X86_64 => find(x86_64::TABLE),
            Self::I386 => find(i386::TABLE),
            Self::Aarch64 => find(aarch64::TABLE),
            Self::Arm => find(arm::TABLE),
            Self::X32 if x32::MISSING.binary_search(&name).is_ok() => None,
            Self::X32 => find(x32::OWN).or_else(|| find(x86_64::TABLE)).map(|n| n | X32_BIT),
        }
    }

    /// Registers are 32 bits wide: the upper half of an argument is always 0.
    pub(super) fn is_32_bit(self) -> bool {
        matches!(self, Self::I386 | Self::Arm)
    }
}

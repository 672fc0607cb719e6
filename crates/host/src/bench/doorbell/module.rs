//! Which KVM there is: what the kernel and its modules say in `/sys` and `/proc`.

use serde::Serialize;
use std::path::Path;

/// The modules that drive a processor's own virtualization on this architecture.
const OF_HARDWARE: [&str; 2] = ["kvm_intel", "kvm_amd"];

/// What runs guests here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct KvmModule {
    /// The module beside `kvm` itself; `None`: none is known, as where both are built in under no name.
    pub(super) name: Option<String>,
    /// Whether the processor runs guests by itself; a software KVM carries out some of their instructions one by one.
    pub(super) hardware: bool,
    /// Whether this machine is a guest itself: each exit costs one of its host's as well.
    pub(super) nested: bool,
}

impl KvmModule {
    /// This machine's.
    pub(super) fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self::of(&modules(Path::new("/sys/module")), &cpuinfo)
    }

    fn of(modules: &[String], cpuinfo: &str) -> Self {
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        let known = |module: &&String| OF_HARDWARE.contains(&module.as_str());
        let name = modules.iter().find(known).or_else(|| modules.first()).cloned();
        let is_known = name.as_deref().is_none_or(|name| OF_HARDWARE.contains(&name));
        // A module of hardware does nothing on a processor without the means.
        Self { name, hardware: is_known && (has("vmx") || has("svm")), nested: has("hypervisor") }
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        let name = self.name.as_deref().unwrap_or("of no name");
        let kind = if self.hardware { "of the processor" } else { "in software" };
        format!("KVM module {name}, {kind}{}", if self.nested { ", in a virtual machine" } else { "" })
    }

    /// What is to be said beside every figure of the guest's.
    pub(super) fn reservation(&self) -> Option<String> {
        if self.hardware {
            return self.nested.then(|| {
                "this machine is a virtual one, so an exit is paid twice and ratios are not those of bare metal"
                    .to_owned()
            });
        }
        Some(
            "a software KVM carries out some instructions by itself: ratios are not representative"
                .to_owned(),
        )
    }
}

/// Modules whose name begins with `kvm_`, sorted.
fn modules(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("kvm_")).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(modules: &[&str], flags: &str) -> KvmModule {
        let modules: Vec<String> = modules.iter().map(ToString::to_string).collect();
        KvmModule::of(&modules, &format!("processor\t: 0\nflags\t\t: fpu {flags} sse\n"))
    }

    #[test]
    fn hardware_is_told_from_software() {
        let metal = of(&["kvm_intel"], "vmx");
        assert!(metal.hardware && !metal.nested && metal.reservation().is_none());
        assert_eq!(metal.line(), "KVM module kvm_intel, of the processor");
        let nested = of(&["kvm_amd"], "svm hypervisor");
        assert!(nested.hardware && nested.reservation().unwrap().contains("paid twice"));
        let software = of(&["kvm_pvm"], "hypervisor");
        assert!(!software.hardware);
        let said = software.reservation().unwrap();
        assert!(said.contains("not representative"), "{said}");
        assert_eq!(software.line(), "KVM module kvm_pvm, in software, in a virtual machine");
        // The processor could, but another module runs the guests.
        assert!(!of(&["kvm_pvm"], "vmx").hardware);
        assert!(!of(&["kvm_intel"], "hypervisor").hardware);
        assert!(of(&[], "svm").hardware && !of(&[], "").hardware);
        assert_eq!(of(&["kvm_amd", "kvm_foo"], "svm").name.as_deref(), Some("kvm_amd"));
    }

    #[test]
    fn modules_are_found_by_name() {
        let place = tempfile::tempdir().unwrap();
        for name in ["kvm", "kvm_pvm", "kvm_amd", "tun"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        assert_eq!(modules(place.path()), ["kvm_amd", "kvm_pvm"]);
        assert!(modules(&place.path().join("none")).is_empty());
    }
}

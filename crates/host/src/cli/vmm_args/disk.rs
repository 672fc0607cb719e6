//! Arguments that attach a guest to a disk.

use super::{
    Attachment, RECONNECT_MS, Vmm, crosvm_memory, function, only_connects, qemu_connection, qemu_memory,
    qemu_path, words, xml_text,
};
use crate::config::resolved::SocketRole;

/// Descriptors in each ring: as many requests may wait, for every front-end lets a request have a table of its own.
const RING_LEN: u16 = 256;

/// What a front-end must know of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmmDisk {
    /// Name of the disk.
    pub name: String,
    /// Path of the socket.
    pub socket: String,
    /// Whether a whole function is behind the socket (vfio-user), and not a back-end (vhost-user).
    pub is_function: bool,
    /// What Ringway is on the socket.
    pub role: SocketRole,
    /// Request queues.
    pub queues: u16,
}

pub(super) fn of_disk(
    disk: &VmmDisk,
    vmm: Vmm,
    memory: &str,
    version: (u32, u32),
) -> anyhow::Result<Attachment> {
    if disk.is_function {
        return function(&format!("disk-{}", disk.name), &disk.socket, vmm, memory);
    }
    match vmm {
        Vmm::Qemu => Ok(qemu(disk, memory, version)),
        Vmm::Libvirt => libvirt(disk),
        Vmm::CloudHypervisor => cloud_hypervisor(disk, memory),
        Vmm::Crosvm => crosvm(disk, memory),
    }
}

/// Arguments for `qemu-system-*`, version (major, minor). It asks the disk for everything but its queues.
fn qemu(disk: &VmmDisk, memory: &str, version: (u32, u32)) -> Attachment {
    let VmmDisk { name, queues, .. } = disk;
    let (path, connection) = (qemu_path(&disk.socket), qemu_connection(disk.role, version));
    let device = format!(
        "vhost-user-blk-pci,id=disk-{name},chardev=chr-disk-{name},num-queues={queues},queue-size={RING_LEN}"
    );
    let attach =
        [("-chardev", format!("socket,id=chr-disk-{name},path={path},{connection}")), ("-device", device)];
    words(qemu_memory(memory).into_iter().chain(attach))
}

/// Elements for a libvirt domain, 7.8 or later; it only ever connects.
fn libvirt(disk: &VmmDisk) -> anyhow::Result<Attachment> {
    anyhow::ensure!(disk.role == SocketRole::Server, only_connects("libvirt", "disk", &disk.name));
    Ok(Attachment::Xml(format!(
        "<!-- in <domain> -->\n\
         <memoryBacking>\n  <source type='memfd'/>\n  <access mode='shared'/>\n</memoryBacking>\n\
         <!-- in <devices>; dev is any name that the domain has not yet -->\n\
         <disk type='vhostuser' device='disk'>\n  \
         <driver name='qemu' type='raw' queues='{}' queue_size='{RING_LEN}'/>\n  \
         <source type='unix' path='{}'>\n    \
         <reconnect enabled='yes' timeout='{}'/>\n  </source>\n  \
         <target dev='vda' bus='virtio'/>\n</disk>\n",
        disk.queues,
        xml_text(&disk.socket),
        RECONNECT_MS / 1000
    )))
}

/// Arguments for `cloud-hypervisor`; as a front-end of a disk it only ever connects.
fn cloud_hypervisor(disk: &VmmDisk, memory: &str) -> anyhow::Result<Attachment> {
    anyhow::ensure!(disk.role == SocketRole::Server, only_connects("cloud-hypervisor", "disk", &disk.name));
    let VmmDisk { socket, queues, .. } = disk;
    let mut pairs = vec![("--memory", format!("size={memory},shared=on"))];
    if *queues > 1 {
        // It wants at least one CPU a queue.
        pairs.push(("--cpus", format!("boot={queues}")));
    }
    let disk = format!("vhost_user=true,socket={socket},num_queues={queues},queue_size={RING_LEN}");
    pairs.push(("--disk", disk));
    Ok(words(pairs))
}

/// Arguments for `crosvm run`; it only ever connects.
fn crosvm(disk: &VmmDisk, memory: &str) -> anyhow::Result<Attachment> {
    anyhow::ensure!(disk.role == SocketRole::Server, only_connects("crosvm", "disk", &disk.name));
    Ok(words([crosvm_memory(memory), ("--vhost-user", format!("type=block,socket={}", disk.socket))]))
}

#[cfg(test)]
mod tests {
    use super::super::shell_lines;
    use super::*;

    fn disk() -> VmmDisk {
        VmmDisk {
            name: "root".into(),
            socket: "/run/ringway/root.sock".into(),
            is_function: false,
            role: SocketRole::Server,
            queues: 4,
        }
    }

    fn text(disk: &VmmDisk, vmm: Vmm, version: (u32, u32)) -> String {
        match of_disk(disk, vmm, "2G", version).expect("arguments") {
            Attachment::Arguments(words) => shell_lines(&words),
            Attachment::Xml(xml) => xml,
        }
    }

    #[test]
    fn qemu_arguments() {
        assert_eq!(
            text(&disk(), Vmm::Qemu, (10, 0)),
            "-m 2G \\\n\
             -object memory-backend-memfd,id=mem0,share=on,size=2G \\\n\
             -machine memory-backend=mem0 \\\n\
             -chardev socket,id=chr-disk-root,path=/run/ringway/root.sock,reconnect-ms=1000 \\\n\
             -device vhost-user-blk-pci,id=disk-root,chardev=chr-disk-root,num-queues=4,queue-size=256\n"
        );
        assert!(text(&disk(), Vmm::Qemu, (7, 2)).contains("root.sock,reconnect=1 "));
        let listens = VmmDisk { role: SocketRole::Client, socket: "/run/a,b c".into(), ..disk() };
        let listens = text(&listens, Vmm::Qemu, (10, 0));
        assert!(
            listens.contains("'socket,id=chr-disk-root,path=/run/a,,b c,server=on,wait=off'"),
            "{listens}"
        );
    }

    #[test]
    fn functions_are_attached_whole() {
        let function = VmmDisk { is_function: true, ..disk() };
        let qemu = text(&function, Vmm::Qemu, (11, 0));
        let device = r#""driver":"vfio-user-pci","id":"fn-disk-root","socket":{"path":"/run/ringway/root.sock","type":"unix"}"#;
        assert!(qemu.contains(device) && !qemu.contains("chardev"), "{qemu}");
        assert_eq!(
            text(&function, Vmm::CloudHypervisor, (11, 0)),
            "--memory size=2G,shared=on \\\n--user-device socket=/run/ringway/root.sock\n"
        );
        for vmm in [Vmm::Libvirt, Vmm::Crosvm] {
            let refused = of_disk(&function, vmm, "2G", (11, 0)).expect_err("no vfio-user");
            assert!(refused.to_string().contains("has no vfio-user"), "{refused}");
        }
    }

    #[test]
    fn libvirt_elements() {
        let odd = VmmDisk { socket: "/run/a'<b>&".into(), ..disk() };
        let xml = text(&odd, Vmm::Libvirt, (10, 0));
        for part in [
            "<source type='memfd'/>",
            "<access mode='shared'/>",
            "<disk type='vhostuser' device='disk'>",
            "<driver name='qemu' type='raw' queues='4' queue_size='256'/>",
            "<source type='unix' path='/run/a&apos;&lt;b&gt;&amp;'>",
            "<reconnect enabled='yes' timeout='1'/>",
            "<target dev='vda' bus='virtio'/>",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
    }

    #[test]
    fn cloud_hypervisor_and_crosvm_arguments() {
        assert_eq!(
            text(&disk(), Vmm::CloudHypervisor, (10, 0)),
            "--memory size=2G,shared=on \\\n--cpus boot=4 \\\n\
             --disk vhost_user=true,socket=/run/ringway/root.sock,num_queues=4,queue_size=256\n"
        );
        assert_eq!(
            text(&disk(), Vmm::Crosvm, (10, 0)),
            "--mem size=2048 \\\n--vhost-user type=block,socket=/run/ringway/root.sock\n"
        );
    }

    #[test]
    fn who_only_connects_is_not_given_a_client() {
        let client = VmmDisk { role: SocketRole::Client, ..disk() };
        for (vmm, word) in
            [(Vmm::Libvirt, "libvirt"), (Vmm::CloudHypervisor, "cloud-hypervisor"), (Vmm::Crosvm, "crosvm")]
        {
            let refused = of_disk(&client, vmm, "2G", (10, 0)).expect_err("client mode").to_string();
            assert!(refused.starts_with(&format!("{word} connects")), "{refused}");
            assert!(refused.ends_with("mode = \"server\" } in [disk.root]"), "{refused}");
        }
    }
}

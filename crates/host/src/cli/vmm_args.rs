//! `ringway vmm-args`: the arguments that attach a guest to a vhost-user or vfio-user port, or to a disk ([`disk`]).
//!
//! All of them share two needs: guest memory that another process can map (a shared memfd), and a socket on which the
//! front-end is the opposite of what Ringway is. A front-end that connects is told to reconnect, so that Ringway may be
//! restarted under a running guest.

mod disk;
mod find;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Output;
use super::show::json;
use crate::config::resolved::SocketRole;
pub use disk::VmmDisk;
use find::{Kind, Thing};

/// Milliseconds between two attempts of a front-end to connect.
const RECONNECT_MS: u32 = 1000;
/// Descriptors in each ring: the most that QEMU allows.
const RING_LEN: u16 = 1024;

#[derive(Args, Debug)]
pub(crate) struct VmmArguments {
    /// Name of the port or disk
    name: String,
    /// The virtual machine monitor
    #[arg(long = "for", value_enum, value_name = "VMM")]
    vmm: Vmm,
    /// Which is meant, where a port and a disk have this name
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Read it from this configuration file instead of asking the running ringway
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Memory of the guest, such as 512M or 4G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory_size)]
    memory: String,
    /// Version of QEMU; before 9.2 it counts the reconnect time in seconds
    #[arg(long, value_name = "MAJOR.MINOR", default_value = "9.2", value_parser = qemu_version)]
    qemu_version: (u32, u32),
    #[command(flatten)]
    output: Output,
}

/// A virtual machine monitor that speaks vhost-user or vfio-user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// QEMU, all versions since 7.2.
    Qemu,
    /// libvirt: parts of a domain's XML.
    Libvirt,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// crosvm.
    Crosvm,
}

/// What a front-end must know of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmmPort {
    /// Name of the port.
    pub name: String,
    /// Path of the socket.
    pub socket: String,
    /// Whether a whole function is behind the socket (vfio-user), and not a back-end (vhost-user).
    pub is_function: bool,
    /// What Ringway is on the socket.
    pub role: SocketRole,
    /// Queue pairs.
    pub queue_pairs: u16,
    /// MAC address as text.
    pub mac: Option<String>,
    /// MTU in bytes.
    pub mtu: Option<u16>,
}

/// Arguments for one front-end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// Words of a command line.
    Arguments(Vec<String>),
    /// Elements of a libvirt domain.
    Xml(String),
}

fn memory_size(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix(['M', 'G']).unwrap_or("");
    let positive = digits.parse::<u32>().is_ok_and(|size| size > 0) && !digits.starts_with('+');
    if positive {
        Ok(text.to_owned())
    } else {
        Err("accepted: a whole number with M or G, such as 512M".into())
    }
}

fn qemu_version(text: &str) -> Result<(u32, u32), String> {
    let mut parts = text.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err("accepted: a version such as 7.2 or 10.0".into()),
    }
}

pub(crate) fn vmm_args(socket: &Path, arguments: &VmmArguments) -> anyhow::Result<String> {
    let VmmArguments { name, kind, vmm, .. } = arguments;
    let thing = match &arguments.config {
        Some(file) => find::in_file(file, name, *kind)?,
        None => find::in_daemon(socket, name, *kind)?,
    };
    let (memory, version) = (&arguments.memory, arguments.qemu_version);
    let (kind, attachment) = match &thing {
        Thing::Port(port) => ("port", of_port(port, *vmm, memory, version)?),
        Thing::Disk(disk) => ("disk", disk::of_disk(disk, *vmm, memory, version)?),
    };
    if arguments.output.json {
        let mut facts = serde_json::to_value(&attachment)?;
        facts[kind] = name.as_str().into();
        facts["for"] = serde_json::to_value(vmm)?;
        return json(&facts);
    }
    Ok(match attachment {
        Attachment::Arguments(words) => shell_lines(&words),
        Attachment::Xml(xml) => xml,
    })
}

fn of_port(port: &VmmPort, vmm: Vmm, memory: &str, version: (u32, u32)) -> anyhow::Result<Attachment> {
    if port.is_function {
        return function(&port.name, &port.socket, vmm, memory);
    }
    Ok(match vmm {
        Vmm::Qemu => qemu(port, memory, version),
        Vmm::Libvirt => libvirt(port),
        Vmm::CloudHypervisor => cloud_hypervisor(port, memory),
        Vmm::Crosvm => crosvm(port, memory)?,
    })
}

/// Arguments for a whole function, whatever it is: its queues and all else are its own.
fn function(name: &str, socket: &str, vmm: Vmm, memory: &str) -> anyhow::Result<Attachment> {
    match vmm {
        Vmm::Qemu => qemu_function(name, socket, memory),
        Vmm::CloudHypervisor => Ok(cloud_hypervisor_function(socket, memory)),
        Vmm::Libvirt | Vmm::Crosvm => {
            let vmm = vmm.to_possible_value().map_or_else(String::new, |word| word.get_name().to_owned());
            anyhow::bail!("{vmm} has no vfio-user; accepted: qemu or cloud-hypervisor, or vhost-user")
        }
    }
}

/// What QEMU's socket has to be told, given what Ringway is on it.
fn qemu_connection(role: SocketRole, version: (u32, u32)) -> String {
    match role {
        SocketRole::Server if version >= (9, 2) => format!("reconnect-ms={RECONNECT_MS}"),
        SocketRole::Server => format!("reconnect={}", RECONNECT_MS / 1000),
        SocketRole::Client => "server=on,wait=off".into(),
    }
}

/// A path within QEMU's options: a comma ends a value unless it is doubled.
fn qemu_path(path: &str) -> String {
    path.replace(',', ",,")
}

/// Memory of a QEMU guest that another process can map.
fn qemu_memory(memory: &str) -> [(&'static str, String); 3] {
    [
        ("-m", memory.into()),
        ("-object", format!("memory-backend-memfd,id=mem0,share=on,size={memory}")),
        ("-machine", "memory-backend=mem0".into()),
    ]
}

/// Arguments for `qemu-system-*`, version (major, minor).
pub fn qemu(port: &VmmPort, memory: &str, version: (u32, u32)) -> Attachment {
    let (path, name) = (qemu_path(&port.socket), &port.name);
    let connection = qemu_connection(port.role, version);
    let mut device = format!("virtio-net-pci,netdev=net-{name}");
    if let Some(mac) = &port.mac {
        device += &format!(",mac={mac}");
    }
    if port.queue_pairs > 1 {
        // One vector a queue, one for the control queue, one for configuration changes.
        device += &format!(",mq=on,vectors={}", 2 * u32::from(port.queue_pairs) + 2);
    }
    if let Some(mtu) = port.mtu {
        device += &format!(",host_mtu={mtu}");
    }
    device += &format!(",rx_queue_size={RING_LEN},tx_queue_size={RING_LEN}");
    let attach = [
        ("-chardev", format!("socket,id=chr-{name},path={path},{connection}")),
        ("-netdev", format!("vhost-user,id=net-{name},chardev=chr-{name},queues={}", port.queue_pairs)),
        ("-device", device),
    ];
    words(qemu_memory(memory).into_iter().chain(attach))
}

/// Arguments for `qemu-system-*` from 11.0 on, which has a client of vfio-user.
///
/// # Errors
/// A path that JSON cannot carry.
fn qemu_function(name: &str, socket: &str, memory: &str) -> anyhow::Result<Attachment> {
    let device = serde_json::json!({
        "driver": "vfio-user-pci",
        "id": format!("fn-{name}"),
        "socket": { "type": "unix", "path": socket },
    });
    let device = ("-device", serde_json::to_string(&device)?);
    Ok(words(qemu_memory(memory).into_iter().chain([device])))
}

/// Arguments for `cloud-hypervisor` and a whole function.
fn cloud_hypervisor_function(socket: &str, memory: &str) -> Attachment {
    words([("--memory", format!("size={memory},shared=on")), ("--user-device", format!("socket={socket}"))])
}

/// Elements for a libvirt domain.
pub fn libvirt(port: &VmmPort) -> Attachment {
    let path = xml_text(&port.socket);
    let source = match port.role {
        SocketRole::Server => format!(
            "  <source type='unix' path='{path}' mode='client'>\n    \
             <reconnect enabled='yes' timeout='{}'/>\n  </source>\n",
            RECONNECT_MS / 1000
        ),
        SocketRole::Client => format!("  <source type='unix' path='{path}' mode='server'/>\n"),
    };
    let mac = port.mac.as_ref().map(|mac| format!("  <mac address='{mac}'/>\n")).unwrap_or_default();
    let mtu = port.mtu.map(|mtu| format!("  <mtu size='{mtu}'/>\n")).unwrap_or_default();
    Attachment::Xml(format!(
        "<!-- in <domain> -->\n\
         <memoryBacking>\n  <source type='memfd'/>\n  <access mode='shared'/>\n</memoryBacking>\n\
         <!-- in <devices> -->\n\
         <interface type='vhostuser'>\n{mac}{source}  <model type='virtio'/>\n  \
         <driver queues='{}' rx_queue_size='{RING_LEN}' tx_queue_size='{RING_LEN}'/>\n{mtu}</interface>\n",
        port.queue_pairs
    ))
}

/// Arguments for `cloud-hypervisor`.
pub fn cloud_hypervisor(port: &VmmPort, memory: &str) -> Attachment {
    let vmm_mode = match port.role {
        SocketRole::Server => "client",
        SocketRole::Client => "server",
    };
    let mut net = format!(
        "vhost_user=true,socket={},vhost_mode={vmm_mode},num_queues={},queue_size={RING_LEN}",
        port.socket,
        2 * u32::from(port.queue_pairs)
    );
    if let Some(mac) = &port.mac {
        net += &format!(",mac={mac}");
    }
    if let Some(mtu) = port.mtu {
        net += &format!(",mtu={mtu}");
    }
    let mut pairs = vec![("--memory", format!("size={memory},shared=on"))];
    if port.queue_pairs > 1 {
        // It wants at least one CPU a queue pair.
        pairs.push(("--cpus", format!("boot={}", port.queue_pairs)));
    }
    pairs.push(("--net", net));
    words(pairs)
}

/// Arguments for `crosvm run`; it only ever connects.
pub fn crosvm(port: &VmmPort, memory: &str) -> anyhow::Result<Attachment> {
    anyhow::ensure!(port.role == SocketRole::Server, only_connects("crosvm", "port", &port.name));
    Ok(words([crosvm_memory(memory), ("--vhost-user", format!("type=net,socket={}", port.socket))]))
}

fn crosvm_memory(memory: &str) -> (&'static str, String) {
    let gigabytes = memory.strip_suffix('G').and_then(|count| count.parse::<u64>().ok());
    let megabytes = match gigabytes {
        Some(count) => (count * 1024).to_string(),
        None => memory.trim_end_matches('M').to_owned(),
    };
    ("--mem", format!("size={megabytes}"))
}

fn only_connects(vmm: &str, kind: &str, name: &str) -> String {
    format!(
        "{vmm} connects and does not listen; accepted: vhost-user = {{ ..., mode = \"server\" }} in [{kind}.{name}]"
    )
}

fn words<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Attachment {
    Attachment::Arguments(pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
}

/// Two words a line, continued with backslashes, ready to be pasted into a shell.
fn shell_lines(words: &[String]) -> String {
    let lines: Vec<String> = words
        .chunks(2)
        .map(|pair| pair.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" "))
        .collect();
    lines.join(" \\\n") + "\n"
}

fn shell_word(word: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_./,=:+@%".contains(&c);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn xml_text(text: &str) -> String {
    let escapes = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&apos;"), ("\"", "&quot;")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> VmmPort {
        VmmPort {
            name: "web".into(),
            socket: "/run/ringway/web.sock".into(),
            is_function: false,
            role: SocketRole::Server,
            queue_pairs: 4,
            mac: Some("52:54:00:00:00:01".into()),
            mtu: Some(9000),
        }
    }

    fn text(attachment: Attachment) -> String {
        match attachment {
            Attachment::Arguments(words) => shell_lines(&words),
            Attachment::Xml(xml) => xml,
        }
    }

    #[test]
    fn qemu_arguments() {
        assert_eq!(
            text(qemu(&port(), "2G", (10, 0))),
            "-m 2G \\\n\
             -object memory-backend-memfd,id=mem0,share=on,size=2G \\\n\
             -machine memory-backend=mem0 \\\n\
             -chardev socket,id=chr-web,path=/run/ringway/web.sock,reconnect-ms=1000 \\\n\
             -netdev vhost-user,id=net-web,chardev=chr-web,queues=4 \\\n\
             -device virtio-net-pci,netdev=net-web,mac=52:54:00:00:00:01,mq=on,vectors=10,host_mtu=9000,\
             rx_queue_size=1024,tx_queue_size=1024\n"
        );
        assert!(text(qemu(&port(), "2G", (7, 2))).contains("web.sock,reconnect=1 "));
        let plain = VmmPort {
            role: SocketRole::Client,
            queue_pairs: 1,
            mac: None,
            mtu: None,
            socket: "/run/a,b c".into(),
            ..port()
        };
        let plain = text(qemu(&plain, "2G", (10, 0)));
        assert!(plain.contains("'socket,id=chr-web,path=/run/a,,b c,server=on,wait=off'"), "{plain}");
        assert!(plain.contains("-device virtio-net-pci,netdev=net-web,rx_queue_size"), "{plain}");
    }

    #[test]
    fn libvirt_elements() {
        let xml = text(libvirt(&port()));
        for part in [
            "<source type='memfd'/>",
            "<access mode='shared'/>",
            "<interface type='vhostuser'>",
            "<mac address='52:54:00:00:00:01'/>",
            "<source type='unix' path='/run/ringway/web.sock' mode='client'>",
            "<reconnect enabled='yes' timeout='1'/>",
            "<driver queues='4' rx_queue_size='1024' tx_queue_size='1024'/>",
            "<mtu size='9000'/>",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        let odd = VmmPort { socket: "/run/a'<b>&".into(), role: SocketRole::Client, ..port() };
        assert!(text(libvirt(&odd)).contains("path='/run/a&apos;&lt;b&gt;&amp;' mode='server'/>"));
    }

    #[test]
    fn cloud_hypervisor_and_crosvm_arguments() {
        assert_eq!(
            text(cloud_hypervisor(&port(), "2G")),
            "--memory size=2G,shared=on \\\n--cpus boot=4 \\\n--net vhost_user=true,socket=/run/ringway/web.sock,\
             vhost_mode=client,num_queues=8,queue_size=1024,mac=52:54:00:00:00:01,mtu=9000\n"
        );
        assert_eq!(
            crosvm(&port(), "2G").map(text).expect("server mode"),
            "--mem size=2048 \\\n--vhost-user type=net,socket=/run/ringway/web.sock\n"
        );
        let refused = crosvm(&VmmPort { role: SocketRole::Client, ..port() }, "2G").expect_err("client mode");
        assert!(refused.to_string().contains("mode = \"server\""), "{refused}");
    }

    #[test]
    fn sizes_and_versions() {
        assert_eq!(memory_size("512M").as_deref(), Ok("512M"));
        for text in ["", "G", "0G", "-1G", "+1G", "1.5G", "1T", "1G,x"] {
            assert!(memory_size(text).is_err(), "{text}");
        }
        assert_eq!(qemu_version("10.0.2"), Ok((10, 0)));
        assert!(qemu_version("ten").is_err() && qemu_version("9").is_err());
    }
}

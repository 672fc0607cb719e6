//! The command line where no daemon is needed: `check`, `vmm-args --config`, usage, completions, manual pages; and what
//! the other commands say when nobody answers.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use predicates::prelude::*;

fn ringway(directory: &Path) -> Command {
    let mut command = Command::cargo_bin("ringway").expect("built");
    command.current_dir(directory).env_remove("RINGWAY_SOCKET").env("XDG_RUNTIME_DIR", directory);
    command
}

const GOOD: &str = r#"
[control]
socket = "control.sock"

[switch.lan]

[port.web]
switch = "lan"
vhost-user = { socket = "web.sock", queue-pairs = 2 }
mac = "52:54:00:00:00:01"

[port.db]
switch = "lan"
vhost-user = { socket = "/run/db.sock", mode = "client" }

[port.uplink]
switch = "lan"
tap = { name = "rw0" }

[disk.root]
vhost-user = { socket = "root.sock", queues = 2 }
file = "root.img"

[disk.web]
vfio-user = { socket = "web.vfio" }
ram = "1M"
"#;

fn with_file(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("ringway.toml"), text).expect("written");
    directory
}

#[test]
fn check_accepts_a_good_file() {
    let directory = with_file(GOOD);
    ringway(directory.path())
        .args(["check", "--text-only", "ringway.toml"])
        .assert()
        .success()
        .stdout("ringway.toml: no mistakes (switches: 1, ports: 3, disks: 2)\n")
        .stderr("");
    let output = ringway(directory.path()).args(["check", "--text-only", "--json", "ringway.toml"]).output();
    let facts: serde_json::Value = serde_json::from_slice(&output.expect("ran").stdout).expect("JSON");
    assert_eq!(facts, serde_json::json!({ "ok": true, "switches": 1, "ports": 3, "disks": 2 }));
}

#[test]
fn check_reports_all_mistakes_with_places() {
    let directory =
        with_file("[switch.lan]\nageing = 5\n[port.web]\nswitch = 'lam'\nmac = '01:00:00:00:00:00'\n");
    ringway(directory.path()).args(["check", "ringway.toml"]).assert().code(1).stdout("").stderr(
        "ringway.toml:2: switch.lan.ageing: is an integer, not a string; accepted: a duration from \"1s\" to \
         \"1000000s\" in s, m, h or d, such as \"5m\"\n\
         ringway.toml:3: port.web: is attached to nothing; accepted: one of vhost-user or vfio-user = { socket = \"PATH\" }, \
         tap = { name = \"INTERFACE\" }, or macvtap, packet or af-xdp = { interface = \"INTERFACE\" }\n\
         ringway.toml:4: port.web.switch: there is no switch \"lam\"; accepted: lan\n\
         ringway.toml:5: port.web.mac: \"01:00:00:00:00:00\" is a multicast address; accepted: a unicast address \
         such as 52:54:00:00:00:01\n",
    );
}

#[test]
fn check_reports_mistakes_as_json() {
    let directory = with_file("[switch.lan]\nageing = 5\n");
    let output = ringway(directory.path()).args(["check", "--json", "ringway.toml"]).output().expect("ran");
    assert_eq!(output.status.code(), Some(1));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(facts["ok"], false);
    assert_eq!(facts["mistakes"][0]["line"], 2);
    assert_eq!(facts["mistakes"][0]["field"], "switch.lan.ageing");
}

#[test]
fn check_looks_at_the_machine() {
    let text = "[control]\nsocket = 'ringway.toml'\n[switch.lan]\n[port.a]\nswitch = 'lan'\n\
                vhost-user.socket = 'no/a.sock'\n";
    let directory = with_file(text);
    ringway(directory.path())
        .args(["check", "ringway.toml"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("ringway.toml:2: control.socket: "))
        .stderr(predicate::str::contains(
            "exists and is no socket; accepted: a path that is free or a socket",
        ))
        .stderr(predicate::str::contains("ringway.toml:6: port.a.vhost-user.socket: directory "));
    ringway(directory.path()).args(["check", "missing.toml"]).assert().code(1).stderr(predicate::str::contains(
        "missing.toml: file: cannot be read: No such file or directory (os error 2); accepted: a readable TOML file",
    ));
}

#[test]
fn check_looks_at_the_images_of_disks() {
    let text = "[control]\nsocket = 'c.sock'\n[disk.a]\nvhost-user.socket = 'no/a.sock'\nfile = 'missing.img'\n\
                [disk.b]\nvhost-user.socket = 'b.sock'\nfile = '.'\n\
                [disk.c]\nvfio-user.socket = 'c.vfio'\nfile = 'c.img'\n\
                [disk.d]\nvfio-user.socket = 'd.vfio'\nfile = '/dev/null'\n\
                [disk.e]\nvfio-user.socket = 'e.vfio'\nram = '1M'\n";
    let directory = with_file(text);
    fs::write(directory.path().join("c.img"), [0; 512]).expect("written");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let accepted = "accepted: a file or a block device that exists";
    let assert = ringway(directory.path()).args(["check", "ringway.toml"]).assert().code(1);
    assert
        .stderr(predicate::str::contains("ringway.toml:4: disk.a.vhost-user.socket: directory "))
        .stderr(predicate::str::contains(format!(
            "ringway.toml:5: disk.a.file: {}: No such file or directory (os error 2); {accepted}\n",
            at("missing.img")
        )))
        .stderr(predicate::str::contains(format!("is no file and no block device; {accepted}\n")))
        .stderr(predicate::str::contains("ringway.toml:8: disk.b.file: "))
        .stderr(predicate::str::contains("ringway.toml:14: disk.d.file: /dev/null is no file"))
        .stderr(predicate::str::contains("disk.c").not())
        .stderr(predicate::str::contains("disk.e").not());
}

/// What is not permitted is named. Root may do everything, so root runs a copy of the program as nobody.
#[test]
fn check_names_a_missing_permission() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;

    let disk = |name: &str, image: &str, more: &str| {
        format!(
            "[disk.{name}]\nvhost-user = {{ socket = '{name}.sock', mode = 'client' }}\nfile = '{image}'\n{more}\n"
        )
    };
    let disks = disk("a", "a.img", "")
        + &disk("b", "b.img", "read-only = true")
        + &disk("c", "c.img", "read-only = true");
    let directory = with_file(&format!("[control]\nsocket = 'closed/control.sock'\n{disks}"));
    let [a, b, c] = ["a.img", "b.img", "c.img"].map(|name| directory.path().join(name));
    for image in [&a, &b, &c] {
        fs::write(image, [0; 512]).expect("written");
    }
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).expect("made");
    for (path, mode) in [(directory.path(), 0o755), (&closed, 0o555), (&a, 0o444), (&b, 0o444), (&c, 0o000)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
    let copy = directory.path().join("ringway");
    fs::copy(assert_cmd::cargo::cargo_bin("ringway"), &copy).expect("copied");
    let mut command = std::process::Command::new(copy);
    command.current_dir(directory.path()).args(["check", "ringway.toml"]);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().expect("ran");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("ringway.toml:2: control.socket: directory "), "{text}");
    assert!(text.contains("closed is not writable: Permission denied"), "{text}");
    for (image, name, may) in [("a.img", "a", "read and write"), ("c.img", "c", "read")] {
        let line = text.lines().find(|line| line.contains(&format!(": disk.{name}.file: ")));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        let end = format!(
            "{image}: Permission denied (os error 13); accepted: an image that this process may {may}"
        );
        assert!(line.ends_with(&end), "{line}");
    }
    assert!(!text.contains("disk.b"), "a disk that nobody may write to needs no permission to write: {text}");
}

#[test]
fn vmm_args_from_a_file() {
    let directory = with_file(GOOD);
    let ask = |port: &str, vmm: &str| {
        let mut command = ringway(directory.path());
        command.args(["vmm-args", port, "--for", vmm, "--config", "ringway.toml"]);
        command
    };
    let socket = directory.path().join("web.sock").display().to_string();
    ask("web", "qemu")
        .assert()
        .code(1)
        .stderr("ringway: \"web\" is a port and a disk; say which: --kind port or --kind disk\n");
    let ask_for = |kind: &str, name: &str, vmm: &str| {
        let mut command = ask(name, vmm);
        command.args(["--kind", kind]);
        command
    };
    let ask = |port: &str, vmm: &str| ask_for("port", port, vmm);
    ask("web", "qemu")
        .assert()
        .success()
        .stdout(predicate::str::contains("-object memory-backend-memfd,id=mem0,share=on,size=1G"))
        .stdout(predicate::str::contains(format!("path={socket},reconnect-ms=1000")))
        .stdout(predicate::str::contains("vhost-user,id=net-web,chardev=chr-web,queues=2"))
        .stdout(predicate::str::contains("mac=52:54:00:00:00:01,mq=on,vectors=6"));
    ask("db", "qemu").assert().success().stdout(predicate::str::contains("/run/db.sock,server=on,wait=off"));
    ask("web", "libvirt").assert().success().stdout(predicate::str::contains("<interface type='vhostuser'>"));
    ask("web", "cloud-hypervisor").assert().success().stdout(predicate::str::contains("num_queues=4"));
    ask("web", "crosvm")
        .assert()
        .success()
        .stdout(predicate::str::contains(format!("type=net,socket={socket}")));
    ask("db", "crosvm").assert().code(1).stderr(predicate::str::contains("crosvm connects"));
    ask("uplink", "qemu").assert().code(1).stderr(predicate::str::contains("is a tap"));
    ask("wob", "qemu").assert().code(1).stderr(predicate::str::contains("it has: web, db, uplink"));
    let output = ask("web", "qemu").args(["--json", "--memory", "512M"]).output().expect("ran");
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&facts["port"], &facts["for"]), (&"web".into(), &"qemu".into()));
    assert_eq!(facts["arguments"][0], "-m");
    assert_eq!(facts["arguments"][1], "512M");
}

#[test]
fn vmm_args_of_disks_from_a_file() {
    let directory = with_file(GOOD);
    let ask = |words: &[&str]| {
        let mut command = ringway(directory.path());
        command.arg("vmm-args").args(words).args(["--config", "ringway.toml"]);
        command
    };
    let socket = directory.path().join("root.sock").display().to_string();
    let device = "vhost-user-blk-pci,id=disk-root,chardev=chr-disk-root,num-queues=2,queue-size=256";
    ask(&["root", "--for", "qemu"])
        .assert()
        .success()
        .stdout(predicate::str::contains(format!("path={socket},reconnect-ms=1000")))
        .stdout(predicate::str::contains(device));
    ask(&["web", "--for", "qemu", "--kind", "disk"])
        .assert()
        .success()
        .stdout(predicate::str::contains("\"id\":\"fn-disk-web\""));
    ask(&["web", "--for", "crosvm", "--kind", "disk"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("crosvm has no vfio-user"));
    for (words, expected) in [
        (&["rut", "--for", "qemu"][..], "no port or disk \"rut\"; it has: web, db, uplink, root, web"),
        (&["root", "--for", "qemu", "--kind", "port"], "no port \"root\"; it has: web, db, uplink"),
        (&["db", "--for", "qemu", "--kind", "disk"], "no disk \"db\"; it has: root, web"),
    ] {
        ask(words).assert().code(1).stderr(predicate::str::contains(format!("{expected}\n")));
    }
    let output = ask(&["root", "--for", "libvirt", "--json"]).output().expect("ran");
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&facts["disk"], &facts["for"]), (&"root".into(), &"libvirt".into()));
    assert!(facts["xml"].as_str().expect("XML").contains("<disk type='vhostuser' device='disk'>"));
}

#[test]
fn without_a_daemon_the_socket_and_the_remedy_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    for words in [
        vec!["status"],
        vec!["port", "list"],
        vec!["port", "show", "web"],
        vec!["port", "add", "web", "switch=lan"],
        vec!["port", "set", "web", "mtu="],
        vec!["port", "remove", "web"],
        vec!["port", "reopen", "web"],
        vec!["switch", "list"],
        vec!["switch", "add", "lan"],
        vec!["switch", "set", "lan", "ageing=1m"],
        vec!["switch", "remove", "lan"],
        vec!["disk", "list"],
        vec!["disk", "show", "root"],
        vec!["disk", "add", "root", "ram=1M"],
        vec!["disk", "set", "root", "rate-limit.iops=100"],
        vec!["disk", "remove", "root"],
        vec!["disk", "resize", "root"],
        vec!["fdb", "list"],
        vec!["fdb", "add", "52:54:00:00:00:01", "--port", "web"],
        vec!["fdb", "remove", "52:54:00:00:00:01"],
        vec!["fdb", "flush", "--all"],
        vec!["group", "list"],
        vec!["config", "show"],
        vec!["reload"],
        vec!["vmm-args", "web", "--for", "qemu"],
    ] {
        ringway(directory.path())
            .args(["--socket", "absent.sock"])
            .args(&words)
            .assert()
            .code(1)
            .stdout("")
            .stderr(predicate::str::starts_with("ringway: no ringway answers on absent.sock (start one "))
            .stderr(predicate::str::ends_with("with --socket): No such file or directory (os error 2)\n"));
    }
    ringway(directory.path())
        .env("RINGWAY_SOCKET", "named.sock")
        .arg("status")
        .assert()
        .code(1)
        .stderr(predicate::str::contains("named.sock"));
}

#[test]
fn run_refuses_a_bad_file_with_all_mistakes() {
    let directory = with_file("[workers]\nmode = 'sidecar'\nthreads = 0\n");
    ringway(directory.path())
        .args(["run", "ringway.toml"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("ringway.toml:2: workers.mode: unknown value \"sidecar\""))
        .stderr(predicate::str::contains("ringway.toml:3: workers.threads: 0 is out of range"));
}

#[test]
fn usage_errors_exit_with_two() {
    let directory = with_file(GOOD);
    for words in [
        vec![],
        vec!["rum"],
        vec!["--json"],
        vec!["run"],
        vec!["port"],
        vec!["port", "set", "web"],
        vec!["port", "remove"],
        vec!["disk", "set", "root"],
        vec!["disk", "resize", "root", "much"],
        vec!["vmm-args", "root", "--for", "qemu", "--kind", "share"],
        vec!["fdb", "add", "52:54:00:00:00:01"],
        vec!["fdb", "flush", "--all", "--switch", "lan"],
        vec!["fdb", "list", "--vlan", "0"],
        vec!["config", "check"],
        vec!["vmm-args", "web"],
        vec!["vmm-args", "web", "--for", "vmware"],
        vec!["vmm-args", "web", "--for", "qemu", "--memory", "much"],
    ] {
        ringway(directory.path()).args(&words).assert().code(2).stdout("");
    }
    for strange in [
        &["disk", "resize", "a/b"][..],
        &["port", "show", "a/b"],
        &["port", "add", "a/b", "x=1"],
        &["switch", "remove", "a?b"],
    ] {
        let refused = ringway(directory.path()).args(strange).args(["--socket", "x"]).assert().code(1);
        refused.stderr(predicate::str::contains("is no name"));
    }
    ringway(directory.path())
        .arg("--version")
        .assert()
        .success()
        .stdout(predicate::str::starts_with("ringway "));
}

#[test]
fn completions_and_manual_pages() {
    let directory = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish"] {
        ringway(directory.path())
            .args(["completions", shell])
            .assert()
            .success()
            .stdout(predicate::str::contains("vmm-args"))
            .stdout(predicate::str::contains("resize"));
    }
    ringway(directory.path()).arg("man").assert().success().stdout(predicate::str::contains(".TH ringway 1"));
    ringway(directory.path()).args(["man", "--directory", "."]).assert().success();
    assert!(directory.path().join("ringway-check.1").exists());
    assert!(directory.path().join("ringway-disk-resize.1").exists());
    let nowhere = ringway(directory.path()).args(["man", "--directory", "no/where"]).assert().code(1);
    nowhere.stderr("ringway: manual pages in no/where: No such file or directory (os error 2)\n");
}

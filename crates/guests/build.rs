//! Builds what lies in `guests/` at the top of the repository.
//!
//! - The built-in guest: two user programs and the kernel that contains them, each by calling `rustc` directly,
//!   so that neither its link arguments nor `panic=abort` reach any other crate.
//! - The guest test programs `guests/programs/*.S`, with the assembler and linker behind `cc`.
//!
//! Needs: the x86_64-unknown-linux-gnu standard library of rustc, and `cc`, `ld` (gcc and binutils, or clang
//! and lld). Both work on any host; what is built is always for x86-64.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let guests = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../guests");
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    println!("cargo::rerun-if-changed={}", guests.display());
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["CC", "LD"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let result = built_in(&guests.join("hello"), &out)
        .and_then(|()| programs(&guests.join("programs"), &out));
    if let Err(reason) = result {
        for line in reason.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn built_in(hello: &Path, out: &Path) -> Result<(), String> {
    let version = env::var("CARGO_PKG_VERSION").unwrap();
    let user = |name: &str| {
        let program = out.join(name);
        freestanding(
            &hello.join(format!("user/{name}.rs")),
            &hello.join("user/link.ld"),
            &program,
            &[],
        )
        .map(|()| program)
    };
    let (shell, counter) = (user("shell")?, user("counter")?);
    let embedded = [
        ("MOINHO_GUEST_SHELL", shell.as_path()),
        ("MOINHO_GUEST_COUNTER", &counter),
        ("MOINHO_VERSION", Path::new(&version)),
    ];
    freestanding(
        &hello.join("kernel/main.rs"),
        &hello.join("kernel/link.ld"),
        &out.join("built_in"),
        &embedded,
    )
}

/// One freestanding executable, linked by the script and with nothing of the system in it.
fn freestanding(
    source: &Path,
    script: &Path,
    output: &Path,
    environment: &[(&str, &Path)],
) -> Result<(), String> {
    let rustc = env::var("RUSTC").unwrap();
    let mut command = Command::new(&rustc);
    command.arg(source).arg("-o").arg(output).args([
        "--edition",
        "2024",
        "--crate-type",
        "bin",
        "--target",
        TARGET,
    ]);
    command.args([
        "-C",
        "panic=abort",
        "-C",
        "opt-level=2",
        "-C",
        "codegen-units=1",
        "-C",
        "debuginfo=0",
        "-C",
        "strip=symbols",
    ]);
    command.args([
        "-C",
        "relocation-model=static",
        "-C",
        "force-frame-pointers=yes",
    ]);
    if source.ends_with("kernel/main.rs") {
        // Linked into the top 2 GiB. Exceptions push on the running stack, so no red zone here (the prebuilt
        // `core` has one: see trap.rs for why that does no harm).
        command.args(["-C", "code-model=kernel", "-C", "no-redzone=yes"]);
    }
    let link = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=0x1000",
    ];
    command.args(link.iter().map(|argument| format!("-Clink-arg={argument}")));
    command.arg(format!("-Clink-arg=-Wl,-T,{}", script.display()));
    command.envs(environment.iter().copied());
    run(&mut command).map_err(|reason| {
        format!(
            "the built-in guest: {} cannot be built\n{reason}\nIt needs rustc's standard library for {TARGET} (`rustup target add {TARGET}`) and a C compiler `cc` to link with.",
            source.display()
        )
    })
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("`{name}` cannot be started: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("`{name}` failed ({}):\n{said}", output.status));
    }
    for line in said.lines().filter(|line| line.starts_with("warning: ")) {
        println!("cargo::warning={line}");
    }
    Ok(())
}

/// Assembles every program and writes `programs.rs`, the table that `lib.rs` includes.
fn programs(directory: &Path, out: &Path) -> Result<(), String> {
    let listing =
        fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut sources: Vec<PathBuf> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "S"))
        .collect();
    sources.sort();
    let mut table = String::from("&[\n");
    for source in sources {
        let name = source.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&source)
            .map_err(|error| format!("{}: {error}", source.display()))?;
        let about = directive(&text, "about").ok_or(format!(
            "{}: the line `# about: what it checks` is missing",
            source.display()
        ))?;
        let needs: Vec<&str> = directive(&text, "needs")
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let differs = directive(&text, "reference");
        if differs
            .is_some_and(|d| !(d.starts_with("differs (") || d.starts_with("differs sometimes (")))
        {
            return Err(format!(
                "{}: `# reference:` takes `differs (why)` or `differs sometimes (why)`",
                source.display()
            ));
        }
        let ends = match directive(&text, "expect") {
            None => "Checks",
            Some("shutdown") => "Shutdown",
            Some(_) => {
                return Err(format!(
                    "{}: `# expect:` takes `shutdown`",
                    source.display()
                ));
            }
        };
        let kind = directive(&text, "kind").unwrap_or("");
        let (kind, address, flat) = match kind {
            "real16" => ("Real16", "0x7c00", true),
            "pvh32" => ("Pvh32", "0x100000", false),
            _ => {
                return Err(format!(
                    "{}: `# kind: {kind}`: say `real16` or `pvh32`",
                    source.display()
                ));
            }
        };
        let (object, image) = (
            out.join(format!("{name}.o")),
            out.join(format!("{name}.img")),
        );
        let script = directory.join("link.ld");
        let built = assemble(&source, directory, &object)
            .and_then(|()| link(&object, &script, &image, address, flat))
            .and_then(|()| match flat {
                true => loader(&image, directory, &script, &out.join(&name)),
                false => Ok(image.clone()),
            });
        let kernel = built.map_err(|reason| {
            format!("guest test program {}:\n{reason}\nIt needs an assembler and a linker for x86-64: gcc and binutils (`apt-get install gcc`), or name yours in CC and LD.", source.display())
        })?;
        writeln!(table, "    Program {{ name: {name:?}, about: {about:?}, kind: Kind::{kind}, needs: &{needs:?}, reference_differs: {differs:?}, ends: Ends::{ends}, image: include_bytes!({image:?}), kernel: include_bytes!({kernel:?}) }},").unwrap();
    }
    table.push(']');
    fs::write(out.join("programs.rs"), table).map_err(|error| format!("programs.rs: {error}"))
}

/// A kernel that starts a flat image by PVH: `real16_loader.inc` with the image behind it.
fn loader(image: &Path, include: &Path, script: &Path, stem: &Path) -> Result<PathBuf, String> {
    let file = |extension: &str| stem.with_extension(extension);
    let text = format!(".include \"real16_loader.inc\"\n.incbin {image:?}\nimage_end:\n");
    fs::write(file("loader.S"), text).map_err(|error| error.to_string())?;
    assemble(&file("loader.S"), include, &file("loader.o"))?;
    link(
        &file("loader.o"),
        script,
        &file("kernel"),
        "0x100000",
        false,
    )?;
    Ok(file("kernel"))
}

/// The value of a line `# key: value` in the comment at the top of a program.
fn directive<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let comments = text
        .lines()
        .take_while(|line| line.starts_with('#') || line.trim().is_empty());
    comments
        .filter_map(|line| line.trim_start_matches('#').trim().split_once(':'))
        .find(|(k, _)| *k == key)
        .map(|(_, value)| value.trim())
}

/// `-x assembler`: without the C preprocessor, to which a comment `# if …` would be a directive.
fn assemble(source: &Path, include: &Path, object: &Path) -> Result<(), String> {
    let cc = env::var("CC").unwrap_or("cc".into());
    run(Command::new(cc)
        .args(["-m64", "-c", "-x", "assembler", "-I"])
        .arg(include)
        .arg(source)
        .arg("-o")
        .arg(object))
}

fn link(
    object: &Path,
    script: &Path,
    image: &Path,
    address: &str,
    flat: bool,
) -> Result<(), String> {
    let ld = env::var("LD").unwrap_or("ld".into());
    let mut command = Command::new(ld);
    command.args(["-m", "elf_x86_64", "--build-id=none", "-z", "noexecstack"]);
    command
        .arg(format!("--defsym=base={address}"))
        .arg("-T")
        .arg(script);
    command.arg(if flat { "--oformat=binary" } else { "-s" });
    run(command.arg(object).arg("-o").arg(image))
}

//! The program `moinho`: flags in, words out. What they mean is `vmm`'s business.
#![forbid(unsafe_code)]

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use vmm::images::ImageError;
use vmm::spec::{BoardKind, ClockKind, MachineSpec, parse_size};
use vmm::{Config, EngineChoice, Guest, TraceKinds, TraceTo, Translator, UserError};

const STATUS: &str = "\
Exit status:
  0           the guest switched the machine off (or asked for a reset under --no-reboot),
              or the user ended it with Ctrl-A x
  (V<<1)|1    the guest wrote V to the exit port 0xF4
  2           the command line or a file it names is wrong; nothing has run
  3           triple fault under --no-reboot
  4           our own failure
  128+N       signal N of the host";

#[derive(Parser)]
#[command(name = "moinho", version, about = "A hypervisor for x86-64", after_help = STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a virtual machine
    Run(Box<Run>),
    /// List the CPU models
    CpuModels,
    /// List the engines: which can be used here, how fast they are, what to do about the others
    Engines {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
#[command(after_help = STATUS)]
struct Run {
    /// What to run: nothing (the built-in guest), `linux`, or the path of a kernel
    image: Option<String>,
    /// Kernel: a bzImage, vmlinux, PVH or multiboot image
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk, or a module; may be repeated
    #[arg(long, value_name = "FILE")]
    initrd: Vec<PathBuf>,
    /// Kernel command line (for `linux`: after its own)
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// Disk: a raw image; `,ro` refuses writes, `,cow` forgets them at the end; may be repeated
    #[arg(long, value_name = "FILE[,ro|,cow]")]
    disk: Vec<String>,
    /// RAM, as in 512M or 2G
    #[arg(long, short = 'm', value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// Processors
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: String,
    /// CPU model; `moinho cpu-models` lists them
    #[arg(long, value_name = "NAME")]
    cpu_model: Option<String>,
    /// What runs the processors; auto: kvm if measuring shows it to be real, else bt (interp where
    /// instructions are counted or traced)
    #[arg(long, value_enum, default_value = "auto")]
    engine: Engine,
    /// Use the engine even if it was found to be too slow to be of use
    #[arg(long)]
    force: bool,
    /// Hold everything the translator does against the interpreter (slow); with --engine bt
    #[arg(long)]
    check_bt: bool,
    /// Translator: list all translated blocks in FILE, guest and host code, with counts
    #[arg(long, value_name = "FILE")]
    dump_bt: Option<PathBuf>,
    /// Translator: count for --stats what needs counting in translated code (implied by --dump-bt)
    #[arg(long)]
    count_bt: bool,
    /// Translator: write /tmp/perf-PID.map, by which perf report names guest blocks
    #[arg(long)]
    perf_map: bool,
    /// Translator: switch optimisations off; NAMES with commas, `list` lists them
    #[arg(long, value_name = "NAMES")]
    bt_no: Option<String>,
    /// Translator: memory for translated code, of all processors together [default: 37; 32 for two, 23 for more]
    #[arg(long, value_name = "MIB")]
    bt_cache: Option<u32>,
    /// Translator: a program that has computed for so long has its memory checked by the host's MMU [default: 20]
    #[arg(long, value_name = "MS")]
    bt_window: Option<u64>,
    /// Move the running guest to another engine after some seconds; may be repeated
    #[arg(long = "then", value_name = "ENGINE@SECONDS", hide = true)]
    moves: Vec<String>,
    /// Board variant
    #[arg(long, value_enum, default_value = "pc")]
    board: Board,
    /// Guest time: the host's, or NS nanoseconds (1000) per 1000 instructions, repeatable
    #[arg(long, value_name = "host|insn[:NS]", default_value = "host")]
    clock: String,
    /// End the run when the guest resets the machine or shuts a processor down by a triple fault
    #[arg(long)]
    no_reboot: bool,
    /// Print what the run has cost, on standard error
    #[arg(long)]
    stats: bool,
    /// Print --stats as JSON, on standard output
    #[arg(long, requires = "stats")]
    json: bool,
    /// Trace io, mmio, irq, timer, fault, exit, msr (all: these) or insn, to standard error or FILE
    #[arg(long, value_name = "KINDS[:FILE]")]
    trace: Option<String>,
    /// Write the second serial port's output to FILE
    #[arg(long, value_name = "FILE")]
    com2: Option<PathBuf>,
    /// With `linux`: a command for its shell, after which the machine is switched off
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Auto,
    Interp,
    Bt,
    Kvm,
}

#[derive(Clone, Copy, ValueEnum)]
enum Board {
    Pc,
    Micro,
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return usage(&error),
    };
    let done = match command {
        Command::Run(args) => run(*args),
        Command::CpuModels => {
            let mut names = vmm::cpu_models().join("\n");
            names.push('\n');
            print(&names);
            Ok(ExitCode::SUCCESS)
        }
        Command::Engines { json } => {
            engines(json);
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        print_error(&format!("moinho: {error}\n"));
        ExitCode::from(2)
    })
}

/// To standard output. Whoever read it may have gone (`| head`), which is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// To standard error, likewise.
fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Help goes out as it is; an error becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // clap answers the bare program with the whole help.
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    ) {
        print_error("moinho: no command is given; begin with moinho run, or see moinho --help\n");
        return ExitCode::from(2);
    }
    let text = error.to_string();
    let first: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let line = first.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    print_error(&format!("moinho: {line}; see moinho run --help\n"));
    ExitCode::from(2)
}

fn run(args: Run) -> Result<ExitCode, UserError> {
    if args.bt_no.as_deref() == Some("list") {
        for (name, about) in vmm::optimisations() {
            print(&format!("{name:<18}{about}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (stats, json) = (args.stats, args.json);
    let outcome = vmm::run(config(args)?)?;
    if let Some(message) = outcome.finish.message() {
        print_error(&format!("moinho: {message}\n"));
    }
    if json {
        let text = serde_json::to_string_pretty(&outcome.stats);
        let mut text = text.unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
        text.push('\n');
        print(&text);
    } else if stats {
        print_error(&outcome.stats.to_string());
    }
    Ok(ExitCode::from(outcome.finish.status()))
}

fn config(args: Run) -> Result<Config, UserError> {
    let spec = MachineSpec {
        memory: parse_size(&args.memory)?,
        cpus: args.cpus.parse().map_err(|_| {
            UserError::new(
                format_args!("--cpus: {:?} is not a number", args.cpus),
                "give 1 to 64",
            )
        })?,
        cpu_model: args
            .cpu_model
            .clone()
            .unwrap_or_else(|| MachineSpec::default().cpu_model),
        board: match args.board {
            Board::Pc => BoardKind::Pc,
            Board::Micro => BoardKind::Micro,
        },
        disks: args
            .disk
            .iter()
            .map(|text| vmm::parse_disk(text))
            .collect::<Result<_, _>>()?,
        clock: clock(&args.clock)?,
        ..MachineSpec::default()
    };
    Ok(Config {
        spec,
        engine: args.engine.into(),
        check_bt: args.check_bt,
        force: args.force,
        translator: Translator {
            switches: match &args.bt_no {
                Some(names) => vmm::switches(names)?,
                None => Translator::default().switches,
            },
            count: args.count_bt,
            dump: args.dump_bt.clone(),
            perf_map: args.perf_map,
            cache_mib: args.bt_cache,
            window_after: args.bt_window.map(Duration::from_millis),
        },
        moves: args
            .moves
            .iter()
            .map(|text| engine_move(text))
            .collect::<Result<_, _>>()?,
        no_reboot: args.no_reboot,
        trace: args.trace.as_deref().map(trace).transpose()?,
        com2: args.com2.clone(),
        guest: guest(args)?,
    })
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => EngineChoice::Auto,
            Engine::Interp => EngineChoice::Interp,
            Engine::Bt => EngineChoice::Bt,
            Engine::Kvm => EngineChoice::Kvm,
        }
    }
}

/// `ENGINE@SECONDS`.
fn engine_move(text: &str) -> Result<(EngineChoice, f64), UserError> {
    text.split_once('@')
        .and_then(|(engine, seconds)| {
            let engine = Engine::from_str(engine, false).ok()?;
            let seconds: f64 = seconds.parse().ok()?;
            (0.0..1e6)
                .contains(&seconds)
                .then_some((engine.into(), seconds))
        })
        .ok_or_else(|| {
            UserError::new(
                format_args!("--then: {text:?} is no move"),
                "write ENGINE@SECONDS, as in kvm@2.5",
            )
        })
}

fn engines(json: bool) {
    let engines = vmm::engines();
    if json {
        let text = serde_json::to_string_pretty(&engines);
        println!(
            "{}",
            text.unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"))
        );
        return;
    }
    println!("engine  usable  ring 0 MIPS  ring 3 MIPS  exit µs");
    for e in engines {
        let usable = if e.usable { "yes" } else { "no" };
        print!("{:<7} {usable:<6}", e.engine);
        match e.speed {
            Some(s) => println!(
                " {:>12.1} {:>12.1} {:>8.1}",
                s.ring0_mips, s.ring3_mips, s.exit_us
            ),
            None => println!(" {:>12} {:>12} {:>8}", "-", "-", "-"),
        }
        if let Some(problem) = e.problem {
            println!("        {problem}");
        }
        if let Some(way_out) = e.way_out {
            println!("        {way_out}");
        }
    }
}

fn guest(args: Run) -> Result<Guest, UserError> {
    let files = |kernel| Guest::Files {
        kernel,
        initrd: args.initrd.clone(),
        append: args.append.clone().unwrap_or_default(),
    };
    if !args.command.is_empty() && args.image.as_deref() != Some("linux") {
        return Err(UserError::new(
            "-- COMMAND: only the image linux takes a command",
            "write moinho run linux -- COMMAND",
        ));
    }
    match (args.image.as_deref(), &args.kernel) {
        (_, Some(kernel)) => Ok(files(kernel.clone())),
        (Some("linux"), None) => {
            let image = match vmm::images::linux(&vmm::images::Terminal::new()) {
                Ok(image) => image,
                Err(error @ ImageError::Interrupted(number)) => {
                    print_error(&format!("moinho: {error}\n"));
                    std::process::exit(128 + number);
                }
                Err(error) => return Err(UserError(error.to_string())),
            };
            let mut append = image.append;
            if let Some(more) = &args.append {
                append.push(' ');
                append.push_str(more);
            }
            if !args.command.is_empty() {
                let argument = vmm::images::run_argument(&args.command.join(" "))
                    .map_err(|e| UserError(e.to_string()))?;
                append.push(' ');
                append.push_str(&argument);
            }
            let mut initrd = vec![image.initrd];
            initrd.extend(args.initrd.iter().cloned());
            Ok(Guest::Files {
                kernel: image.kernel,
                initrd,
                append,
            })
        }
        (Some(path), None) if Path::new(path).exists() => Ok(files(path.into())),
        (Some(name), None) => Err(UserError::new(
            format_args!("no image {name:?} and no file of that name"),
            "there are the built-in guest (give nothing), linux, and --kernel FILE",
        )),
        (None, None) if !args.initrd.is_empty() || args.append.is_some() => Err(UserError::new(
            "--initrd and --append: the built-in guest takes neither",
            "give --kernel FILE, too",
        )),
        (None, None) => Ok(Guest::BuiltIn),
    }
}

fn clock(text: &str) -> Result<ClockKind, UserError> {
    let way_out =
        "give host, insn, or insn:NS with NS nanoseconds per 1000 instructions (1 to 1000000)";
    let bad = || UserError::new(format_args!("--clock: {text:?} is no clock"), way_out);
    match text.split_once(':') {
        None if text == "host" => Ok(ClockKind::Host),
        None if text == "insn" => Ok(ClockKind::Instructions(1000)),
        Some(("insn", ns)) => match ns.parse() {
            Ok(ns @ 1..=1_000_000) => Ok(ClockKind::Instructions(ns)),
            _ => Err(bad()),
        },
        _ => Err(bad()),
    }
}

fn trace(text: &str) -> Result<TraceTo, UserError> {
    let (kinds, file) = match text.split_once(':') {
        Some((_, "")) => {
            return Err(UserError::new(
                format_args!("--trace {text}: no file is named"),
                "write KINDS:FILE, or KINDS for standard error",
            ));
        }
        Some((kinds, file)) => (kinds, Some(file.into())),
        None => (text, None),
    };
    let kinds = TraceKinds::parse(kinds).map_err(|why| {
        UserError::new(
            format_args!("--trace: {why}"),
            "give some of them, as in io,irq",
        )
    })?;
    Ok(TraceTo { kinds, file })
}

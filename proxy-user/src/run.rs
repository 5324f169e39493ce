//! `latch run`: the start in order, the loop, and the summary at the end.

use crate::{
    cli::Run,
    resume::{self, PreviousRun},
};
use anyhow::{Context as _, Result};
use proxy_user::{
    accounting::CdrSink,
    config::{Config, Problems, Relay, Side, host},
    ctl::Server,
    datapath::{MediaRelay, Mode, kernel::Pins},
    io::{
        Connections, Loop, Stop,
        filter::Filters,
        sockets::{self, DatagramSocket},
    },
    objects::{RELAY, SIGNALLING},
    proxy::Proxy,
    signalling::wires,
};
use std::{
    fs::File,
    io::{IsTerminal as _, Read as _},
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub(crate) fn run(options: &Run) -> Result<()> {
    log_to_stderr(options.log);
    let mut config = Config::load(&options.config, options.overrides())?;
    options.state.override_in(&mut config.state);
    fits_this_host(&config, options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(Arc::new(config), options.fresh))
}

async fn serve(config: Arc<Config>, fresh: bool) -> Result<()> {
    announce(&config);
    let (object, origin) = match config.media.relay {
        Relay::UserSpace => Default::default(),
        _ => RELAY.find()?,
    };
    let records = config.cdr.file.as_deref().map(CdrSink::open).transpose()?;
    let wires = wires(&config);
    let sockets = sockets::bind(&wires)?;
    let filters = filters(&config, &sockets);
    let connections = Connections::open(Arc::clone(&config), wires)?;
    let reload = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let previous = PreviousRun::find(&config, fresh)?;
    let stop = stop_signal(Pins::new(&config.state.pins), config.state.keep)?;
    let mut datapath = MediaRelay::start(&config, &object, &previous.start_mode())?;
    announce_datapath(&datapath, &origin);
    let now = Instant::now();
    let engine = || Ok(Proxy::new(Arc::clone(&config), SystemTime::now(), now, seed()?)?);
    let recorded = records.as_ref().map(CdrSink::latest).unwrap_or_default();
    let operator = Server::start(&config.state.directory)?;
    let (engine, keeper, pins) = previous.resume(&engine, &mut datapath, &recorded, now)?;
    let mut proxy = Loop::new(engine, datapath, records, sockets).with_filters(filters);
    proxy = proxy.with_journal(keeper).with_control_socket(operator).with_connections(connections, Some(reload));
    eprintln!("latch is ready");

    let done = proxy.run(stop).await;
    account(&proxy);
    let (_, datapath, keeper) = proxy.into_parts();
    match (done?, keeper) {
        (Stop::End, Some(keeper)) => resume::end(keeper, &pins, datapath),
        (Stop::Keep, Some(mut keeper)) => keeper.hand_over(Instant::now()),
        (_, None) => Ok(()),
    }
}

fn log_to_stderr(level: Option<tracing::Level>) {
    let filter = match level {
        Some(level) => EnvFilter::default().add_directive(LevelFilter::from_level(level).into()),
        None => EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy(),
    };
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        .init();
}

fn fits_this_host(config: &Config, options: &Run) -> Result<()> {
    let findings = host::check(config).context("cannot examine this host")?;
    for warning in findings.warnings {
        tracing::warn!("{}: {} ({})", warning.field, warning.message, warning.remedy);
    }
    if findings.problems.is_empty() {
        return Ok(());
    }
    Err(Problems::located(&options.config, findings.problems).into())
}

/// Logs what Latch is about to do.
fn announce(config: &Config) {
    eprintln!("latch {}", env!("CARGO_PKG_VERSION"));
    for realm in &config.realms {
        let side = match realm.side {
            Side::Access => "access",
            Side::Core => "core",
        };
        let softswitch = realm.softswitch_flow().map(|flow| format!(", softswitch {flow}")).unwrap_or_default();
        let streams: String = realm
            .streams
            .listening()
            .map(|(transport, port)| format!(", {} port {port}", transport.in_via()))
            .collect();
        eprintln!(
            "realm {} ({side}): interface {}, signalling UDP {}{streams}, media {} ports {}-{}{softswitch}",
            realm.name, realm.interface, realm.signalling, realm.media, realm.ports.first, realm.ports.last,
        );
    }
    let maps = &config.maps;
    eprintln!(
        "maps: LEGS and LEG_STATE {} entries ({} KiB together), NEXT_HOPS {} entries, EVENTS {} bytes",
        maps.max_legs,
        u64::from(maps.max_legs) * 256 / 1024,
        maps.max_next_hops,
        maps.events_bytes,
    );
    match &config.cdr.file {
        Some(file) => eprintln!("call records: {}", file.display()),
        None => eprintln!("call records: none (no file in [cdr])"),
    }
}

fn announce_datapath(datapath: &MediaRelay, origin: &str) {
    let interfaces = datapath.interfaces().join(", ");
    match datapath.mode() {
        Mode::Native => eprintln!("XDP program ({origin}): native mode on {interfaces}"),
        Mode::Generic => eprintln!(
            "XDP program ({origin}): GENERIC mode on {interfaces}: a driver has no native XDP, so each packet costs more"
        ),
        Mode::UserSpace => eprintln!(
            "relay: USER SPACE on {interfaces}: each packet costs several times what it costs in the kernel, and media stops \
             while this process does not run"
        ),
    }
}

/// A filter on each socket that strangers reach. Where BPF is refused, Latch runs without.
fn filters(config: &Config, sockets: &[DatagramSocket]) -> Filters {
    let attached = SIGNALLING.find().and_then(|(object, _)| Filters::attach(&object, config, sockets));
    attached.unwrap_or_else(|error| {
        tracing::warn!(
            "no filter before the signalling sockets, so a flood can crowd out registered terminals: {error:#}"
        );
        Filters::none()
    })
}

/// Ready at the first SIGTERM or SIGINT, or at SIGUSR2, which leaves the calls to the next process; a second one of the
/// first two ends the process immediately.
fn stop_signal(pins: Pins, keep: bool) -> Result<impl Future<Output = Stop>> {
    let mut follow = signal(SignalKind::user_defined2()).context("cannot listen for SIGUSR2")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        tokio::select! {
            () = next() => {}
            _ = follow.recv() => return Stop::Keep,
        }
        if keep {
            return Stop::Keep;
        }
        tokio::spawn(async move {
            next().await;
            // The kernel takes the program off the interfaces when its pins and the process are gone.
            let _ = pins.remove();
            std::process::exit(1);
        });
        Stop::End
    })
}

fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed)).context("cannot read /dev/urandom")?;
    Ok(seed)
}

/// What happened between start and end.
fn account(proxy: &Loop<Proxy, MediaRelay>) {
    tracing::info!("signalling: {:?}", proxy.statistics());
    tracing::info!("connections: {:?}", proxy.connection_statistics());
    tracing::info!("engine: {:?}", proxy.core().statistics());
    tracing::info!("left: {:?}", proxy.core().load(Instant::now()));
    tracing::info!("latches found late: {}", proxy.datapath().events_lost());
    match proxy.datapath().counters() {
        Ok(counters) => {
            let named: Vec<_> = counters
                .named()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            tracing::info!("packets: {}", if named.is_empty() { "none".into() } else { named.join(", ") });
        }
        Err(error) => tracing::warn!("{error:#}"),
    }
}

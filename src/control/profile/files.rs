//! Profiles of a run, as `--cpuprofile` and `--memprofile` ask for them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{error, info, warn};

use super::cpu::{COLLECT, Owner, Recording};
use super::{Profile, heap};

/// The files that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub cpu: Option<PathBuf>,
    pub heap: Option<PathBuf>,
}

/// Profiles that are being made. What can't be written at the end is said in the log.
pub struct Running {
    files: Files,
    cpu: Option<Collector>,
}

/// The thread that collects samples of CPU time until its sender is dropped.
struct Collector {
    thread: JoinHandle<Profile>,
    end: Sender<()>,
}

impl Files {
    /// Begins to profile. The files are made now, so that a wrong path is known at the start.
    ///
    /// # Errors
    /// Why a file or a profile can't be made.
    pub fn start(self) -> Result<Running, String> {
        for (path, flag) in [(&self.cpu, "--cpuprofile"), (&self.heap, "--memprofile")] {
            if let Some(path) = path {
                File::create(path)
                    .map_err(|error| format!("{flag}: {}: {error}", path.display()))?;
            }
        }
        let cpu = match self.cpu {
            Some(_) => Some(Collector::start().map_err(|why| format!("--cpuprofile: {why}"))?),
            None => None,
        };
        Ok(Running { files: self, cpu })
    }
}

impl Running {
    /// Where the heap goes, for whoever writes it in between.
    pub fn heap_file(&self) -> Option<PathBuf> {
        self.files.heap.clone()
    }

    /// Writes all that was asked for.
    pub fn finish(self) {
        write_heap(self.files.heap.as_deref());
        if let (Some(collector), Some(path)) = (self.cpu, &self.files.cpu)
            && let Some(profile) = collector.finish()
        {
            write("CPU profile", &profile, path);
        }
    }
}

/// Writes the heap as it is now.
pub fn write_heap(path: Option<&Path>) {
    match (path, heap::profile()) {
        (Some(path), Some(profile)) => write("heap profile", &profile, path),
        (Some(_), None) => error!("no heap profile: this program's allocator does not tell"),
        (None, _) => {}
    }
}

/// What USR1 asks for.
pub fn on_signal(path: Option<&Path>) {
    if path.is_none() {
        warn!(
            "USR1 writes a heap profile if wsteady was started with --memprofile FILE; GET /debug/pprof/heap gives one always"
        );
    }
    write_heap(path);
}

fn write(what: &str, profile: &Profile, path: &Path) {
    match std::fs::write(path, profile.pprof()) {
        Ok(()) => info!(file:% = path.display(); "{what} written"),
        Err(error) => error!(file:% = path.display(); "no {what}: {error}"),
    }
}

impl Collector {
    fn start() -> Result<Collector, String> {
        let recording = Recording::start(Owner::Run).map_err(|why| why.to_string())?;
        let (end, ended) = bounded(0);
        let thread = thread::Builder::new()
            .name("cpuprofile".to_string())
            .spawn(move || collect(recording, &ended))
            .map_err(|error| error.to_string())?;
        Ok(Collector { thread, end })
    }

    /// `None` if its thread has panicked, which it has said.
    fn finish(self) -> Option<Profile> {
        drop(self.end);
        self.thread.join().ok()
    }
}

fn collect(mut recording: Recording, ended: &Receiver<()>) -> Profile {
    while ended.recv_timeout(COLLECT) == Err(RecvTimeoutError::Timeout) {
        recording.collect();
    }
    recording.finish()
}

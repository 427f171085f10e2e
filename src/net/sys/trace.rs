//! Where the program is: stacks by frame pointers, CPU samples, an allocator that tells.
//!
//! Stacks are read by frame pointers (`.cargo/config.toml`): no lock, no allocation, no descriptor,
//! no table of a library, so that a signal handler may do it in any thread, also in one with its own
//! descriptors. Code of libc has no frame pointers: where it was interrupted, its caller is looked for
//! on the stack.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// Frames of one stack; what lies further out is cut off.
pub const FRAMES_MAX: usize = 64;

/// What a sampler tells: a stack, innermost frame first, and for how many periods it stands.
pub type Record = fn(&[usize], u32);

/// Interrupts each thread when it has computed for a period, and tells where it was. Dropping it
/// ends that; a signal may still be on its way then.
///
/// The kernel looks at its timers when it ticks: a thread that computes shorter than that is hit
/// less often, and then stands for several periods.
pub struct Sampler {
    period: Duration,
    timers: BTreeMap<libc::pid_t, Timer>,
}

impl Sampler {
    /// Begins with all threads that there are. The first `record` stays for good. It runs in a
    /// signal handler: atomics are fine, locks and allocations are not.
    ///
    /// # Errors
    /// Those of sigaction(2), timer_create(2) and of reading `/proc/self/task`; `Unsupported` on
    /// processors other than x86-64 and ARM64.
    pub fn start(period: Duration, record: Record) -> io::Result<Sampler> {
        if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        RECORD.get_or_init(|| record);
        catch_sigprof()?;
        let timers = BTreeMap::new();
        let mut sampler = Sampler { period, timers };
        let failed = sampler.follow()?;
        match failed {
            Some(error) if sampler.timers.is_empty() => Err(error),
            _ => Ok(sampler),
        }
    }

    /// Takes in threads that have begun since, and lets go of those that have ended. A thread may
    /// end at any moment, so that one without a timer is no error: the last reason is given.
    ///
    /// # Errors
    /// Those of reading `/proc/self/task`.
    pub fn follow(&mut self) -> io::Result<Option<io::Error>> {
        let mut before = std::mem::take(&mut self.timers);
        let mut failed = None;
        for entry in std::fs::read_dir("/proc/self/task")? {
            let Some(thread) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let known = before.remove(&thread).map(Ok);
            match known.unwrap_or_else(|| Timer::start(thread, self.period)) {
                Ok(timer) => drop(self.timers.insert(thread, timer)),
                Err(error) => failed = Some(error),
            }
        }
        Ok(failed)
    }
}

/// The caller's stack, innermost frame first; says how many frames there are.
#[inline(never)]
pub fn stack(into: &mut [usize]) -> usize {
    let here = 0_u8;
    Stack::above((&raw const here).addr()).walk(frame_pointer(), into)
}

/// The system's allocator, which says what it gives and what it gets back.
pub struct Watched {
    took: fn(usize, usize),
    gave: fn(usize),
}

impl Watched {
    /// `took` hears of each block (address, bytes) that was taken, `gave` of each address before it
    /// is given back. Both may allocate, and are then called again; neither may panic.
    pub const fn new(took: fn(usize, usize), gave: fn(usize)) -> Watched {
        Watched { took, gave }
    }

    fn tell(&self, block: *mut u8, bytes: usize) -> *mut u8 {
        if !block.is_null() {
            (self.took)(block.addr(), bytes);
        }
        block
    }
}

// SAFETY: every call is the system allocator's own, with its arguments unchanged.
unsafe impl GlobalAlloc for Watched {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that System asks for.
        self.tell(unsafe { System.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.tell(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Before: afterwards the address may be another thread's already.
        (self.gave)(block.addr());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        (self.gave)(block.addr());
        // SAFETY: as above.
        self.tell(unsafe { System.realloc(block, layout, size) }, size)
    }
}

static RECORD: OnceLock<Record> = OnceLock::new();

fn catch_sigprof() -> io::Result<()> {
    // SAFETY: all zeros are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigprof as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and is safe in a signal.
    check(unsafe { libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) })
}

/// Of one thread's CPU time.
struct Timer(libc::timer_t);

// SAFETY: it is the kernel's number of a timer of the process; any thread may delete it.
unsafe impl Send for Timer {}

impl Timer {
    fn start(thread: libc::pid_t, period: Duration) -> io::Result<Timer> {
        // SAFETY: all zeros are a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_notify_thread_id = thread;
        event.sigev_signo = libc::SIGPROF;
        let mut timer = std::ptr::null_mut();
        let clock = (!thread << CLOCK_SHIFT) | CLOCK_OF_THREAD;
        // SAFETY: the event is read, and the timer's number is written.
        check(unsafe { libc::timer_create(clock, &raw mut event, &raw mut timer) })?;
        let timer = Timer(timer);
        let every = libc::timespec {
            tv_sec: 0,
            tv_nsec: period.subsec_nanos().into(),
        };
        let times = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the timer is ours, the times are read, and no old ones are asked for.
        check(unsafe { libc::timer_settime(timer.0, 0, &raw const times, std::ptr::null_mut()) })?;
        Ok(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: it was made by timer_create, and nobody else knows it.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn check(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs in the thread whose timer it is.
extern "C" fn on_sigprof(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(record) = RECORD.get() else { return };
    // SAFETY: with SA_SIGINFO the kernel passes the signal's facts. For a timer, the number of
    // periods missed stands where others have a user id (sigaction(2), `si_overrun`).
    let missed = unsafe {
        match (*info).si_code {
            libc::SI_TIMER => (*info).si_uid(),
            _ => 0,
        }
    };
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted thread's context.
    let registers = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
    let mut frames = [0; FRAMES_MAX];
    let count = interrupted(&registers, &mut frames);
    record(&frames[..count], missed.saturating_add(1));
}

/// The stack of what was interrupted.
fn interrupted(registers: &Registers, into: &mut [usize; FRAMES_MAX]) -> usize {
    let mut stack = Stack::above(registers.sp);
    into[0] = registers.pc;
    if stack
        .frame(registers.fp)
        .is_some_and(|frame| is_ours(frame[1]))
    {
        return 1 + stack.walk(registers.fp, &mut into[1..]);
    }
    let Some((caller, fp)) = stack.find_caller() else {
        return 1;
    };
    into[1] = caller;
    2 + stack.walk(fp, &mut into[2..])
}

struct Registers {
    pc: usize,
    fp: usize,
    sp: usize,
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let register = |which: c_int| context.uc_mcontext.gregs[which as usize] as usize;
    Registers {
        pc: register(libc::REG_RIP),
        fp: register(libc::REG_RBP),
        sp: register(libc::REG_RSP),
    }
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let machine = &context.uc_mcontext;
    Registers {
        pc: machine.pc as usize,
        fp: machine.regs[29] as usize,
        sp: machine.sp as usize,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_: &libc::ucontext_t) -> Registers {
    Registers {
        pc: 0,
        fp: 0,
        sp: 0,
    }
}

#[inline(always)]
fn frame_pointer() -> usize {
    let fp: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a register is read, nothing else is touched.
    unsafe {
        std::arch::asm!("mov {}, rbp", out(reg) fp, options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        fp = 0;
    }
    fp
}

/// The part of a thread's stack that is in use.
struct Stack {
    top: usize,
    /// The last page found readable.
    page: usize,
}

impl Stack {
    fn above(top: usize) -> Stack {
        Stack {
            top,
            page: usize::MAX,
        }
    }

    /// Follows the frames outwards and writes their return addresses; says how many there are. What
    /// does not lie further out on the same stack ends the walk: code without frame pointers may
    /// have left anything in the register.
    fn walk(&mut self, mut fp: usize, into: &mut [usize]) -> usize {
        for (at, slot) in into.iter_mut().enumerate() {
            match self.frame(fp) {
                // No code lies in the first page.
                Some([next, back]) if back >= PAGE => {
                    *slot = back;
                    // The next one lies further out, or is none.
                    fp = if next > fp { next } else { 0 };
                }
                _ => return at,
            }
        }
        into.len()
    }

    /// Who called code without frame pointers: an address in our code, and our frame pointer. Such
    /// code saves what it found in the register, and the return address stands a few words above.
    fn find_caller(&mut self) -> Option<(usize, usize)> {
        for place in words(self.top).take(SAVED_MAX) {
            let saved = self.word(place)?;
            if saved > place && self.is_frame_of_ours(saved) {
                for place in words(place).skip(1).take(REGISTERS_MAX) {
                    let back = self.word(place)?;
                    if is_ours(back) {
                        return Some((back, saved));
                    }
                }
            }
        }
        None
    }

    /// Whether two frames in a row return to our code: one might be chance.
    fn is_frame_of_ours(&mut self, fp: usize) -> bool {
        let Some([next, back]) = self.frame(fp) else {
            return false;
        };
        let outer = if next > fp { self.frame(next) } else { None };
        is_ours(back) && outer.is_some_and(|[_, back]| is_ours(back))
    }

    /// The outer frame's pointer, and the address to return to.
    fn frame(&mut self, fp: usize) -> Option<[usize; 2]> {
        Some([self.word(fp)?, self.word(fp.checked_add(WORD)?)?])
    }

    fn word(&mut self, at: usize) -> Option<usize> {
        let is_within = (self.top..self.top.saturating_add(STACK_MAX)).contains(&at);
        if !is_within || !at.is_multiple_of(WORD) {
            return None;
        }
        if at / PAGE != self.page {
            if !is_readable(at) {
                return None;
            }
            self.page = at / PAGE;
        }
        // SAFETY: the kernel has just read this page, and only this thread unmaps its stack. The
        // word is a plain number, whatever it means.
        Some(unsafe { std::ptr::with_exposed_provenance::<usize>(at).read_volatile() })
    }
}

/// Addresses of words from here outwards.
fn words(from: usize) -> impl Iterator<Item = usize> {
    (from..usize::MAX).step_by(WORD)
}

/// Whether an address lies in this program's own code, not in a library's.
fn is_ours(address: usize) -> bool {
    let from = (&raw const __executable_start).addr();
    (from..(&raw const etext).addr()).contains(&address)
}

// SAFETY: the linker's own marks around the code (ld(1)); only their addresses are taken.
unsafe extern "C" {
    safe static __executable_start: u8;
    safe static etext: u8;
}

/// Asks the kernel without a descriptor: it reads the mask before it sees that `how` is wrong.
fn is_readable(word: usize) -> bool {
    const NO_SUCH_HOW: c_int = -1;
    // SAFETY: errno is this thread's own, and lives as long as the thread.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    // SAFETY: a wrong `how` changes nothing, and a wrong address is answered by EFAULT.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            NO_SUCH_HOW,
            word,
            std::ptr::null_mut::<c_void>(),
            size_of::<u64>(),
        )
    };
    debug_assert_eq!(result, -1);
    // Whoever was interrupted must not see that we asked.
    std::mem::replace(errno, before) == libc::EINVAL
}

/// How the kernel numbers the clock of a thread's CPU time (clock_getcpuclockid(3)).
const CLOCK_SHIFT: u32 = 3;
const CLOCK_OF_THREAD: libc::clockid_t = 6;

/// The smallest page of all: checked more often than needed where pages are larger.
const PAGE: usize = 4_096;

const WORD: usize = size_of::<usize>();

/// Words of a function of libc that waits in the kernel: its locals and what it has saved.
const SAVED_MAX: usize = 32;

/// Between a saved frame pointer and the return address lie the other saved registers.
const REGISTERS_MAX: usize = 8;

/// The largest stack that a thread has by default (getrlimit(2), RLIMIT_STACK).
const STACK_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_names_its_callers() {
        #[inline(never)]
        fn caller_of_note(into: &mut [usize]) -> usize {
            std::hint::black_box(stack(into))
        }
        let mut frames = [0; FRAMES_MAX];
        let count = caller_of_note(&mut frames);
        let mut names = String::new();
        for frame in &frames[..count] {
            backtrace::resolve((frame - 1) as *mut c_void, |symbol| {
                if let Some(name) = symbol.name() {
                    names.push_str(&format!("{name:#}\n"));
                }
            });
        }
        assert!(names.contains("caller_of_note"), "{names}");
        assert!(names.contains("a_stack_names_its_callers"), "{names}");
    }

    #[test]
    fn a_walk_ends_at_what_is_no_frame() {
        let mut into = [0; 8];
        let code = 0x5555_0000;
        // Two good frames, and then each kind of wrong pointer; the last leads back.
        let mut stack = [0_usize; 8];
        let base = stack.as_ptr().expose_provenance();
        for wrong in [0, 1, 0xdead_0000_0000, usize::MAX & !7, base] {
            stack[..4].copy_from_slice(&[base + 16, code, wrong, code + 1]);
            std::hint::black_box(&stack);
            assert_eq!(Stack::above(base).walk(base, &mut into), 2, "{wrong:x}");
            assert_eq!(into[..2], [code, code + 1]);
        }
    }

    #[test]
    fn who_called_code_without_frame_pointers_is_found() {
        let ours = stack as *const () as usize;
        // More than is looked through: what lies behind is a real stack.
        let mut words = [0_usize; 2 * SAVED_MAX];
        let base = words.as_ptr().expose_provenance();
        let at = |word: usize| base + word * WORD;
        // A pointer to a local, a saved register, our frame pointer, another register, the way back;
        // then two frames of ours.
        let frames = [at(9), ours + 1, 0, 0, ours + 2];
        words[..5].copy_from_slice(&[at(3), 5, at(6), 7, ours]);
        words[6..11].copy_from_slice(&frames);
        std::hint::black_box(&words);
        let registers = Registers {
            pc: 0x7000,
            fp: 1,
            sp: base,
        };
        let mut into = [0; FRAMES_MAX];
        assert_eq!(interrupted(&registers, &mut into), 4);
        assert_eq!(into[..4], [0x7000, ours, ours + 1, ours + 2]);
        // Without a second frame it might be chance.
        words[10] = 3;
        std::hint::black_box(&words);
        assert_eq!(interrupted(&registers, &mut into), 1);
    }

    #[test]
    fn memory_that_is_not_there_is_not_read() {
        let here = 0_u64;
        assert!(is_readable((&raw const here).addr()));
        for wrong in [8, PAGE - 8, usize::MAX & !7] {
            assert!(!is_readable(wrong), "{wrong:x}");
        }
    }
}

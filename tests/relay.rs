//! A relayed message allocates nothing. A test binary of its own, because it counts what the whole
//! process allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use tungstenite::{Message, WebSocket};
use wsteady::Proxy;
use wsteady::control::config::{Config, ListenConfig};

/// The system's allocator, with a count of what the proxy's loops ask it for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Other threads of the proxy are not counted: those of the dashboard and the log allocate now and
/// then, whether a message passes or not.
fn count() {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME (prctl(2)) writes at most 16 bytes to where it is told.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if name.starts_with(b"shard-") {
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

// SAFETY: all is done by the system's allocator, with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_relayed_message_allocates_nothing() {
    let server = echo_server();
    let mut config = Config::with_backends(&[server]).expect("a good URL");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    config.listen = vec![ListenConfig::new(address)];
    config.admin.address = address;
    let proxy = Proxy::start(config).expect("free addresses");
    let address = proxy.listen_addresses()[0];
    let mut clients: Vec<WebSocket<TcpStream>> = (0..CLIENTS)
        .map(|_| {
            let stream = TcpStream::connect(address).expect("the proxy listens");
            stream.set_nodelay(true).expect("an open socket");
            let url = format!("ws://{address}/");
            tungstenite::client(url, stream).expect("an upgrade").0
        })
        .collect();
    assert!(ALLOCATIONS.load(Relaxed) > 0, "the loops are not counted");
    for bytes in [64, 1_024, 16_384] {
        // Buffers and lists grow to what they need.
        exchange(&mut clients, bytes);
        let before = ALLOCATIONS.load(Relaxed);
        exchange(&mut clients, bytes);
        let allocations = ALLOCATIONS.load(Relaxed) - before;
        // A list may grow once more; one for each message would be thousands.
        assert!(
            allocations < MESSAGES as u64 / 100,
            "{allocations} in {MESSAGES} echoes of {bytes} bytes"
        );
    }
    drop(clients);
    proxy.stop(std::time::Duration::from_secs(1));
}

fn exchange(clients: &mut [WebSocket<TcpStream>], bytes: usize) {
    for _ in 0..MESSAGES / CLIENTS {
        for client in &mut *clients {
            let message = Message::binary(vec![7; bytes]);
            client.send(message).expect("the session lives");
        }
        for client in &mut *clients {
            let echo = client.read().expect("the session lives");
            assert_eq!(echo.len(), bytes);
        }
    }
}

/// The URL of a server that sends back what it gets.
fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let stream = stream.expect("a connection");
                stream.set_nodelay(true).expect("an open socket");
                let mut socket = tungstenite::accept(stream).expect("an upgrade");
                while let Ok(message) = socket.read() {
                    if message.is_binary() && socket.send(message).is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("ws://{address}")
}

const CLIENTS: usize = 20;

/// Echoes of one size.
const MESSAGES: usize = 4_000;

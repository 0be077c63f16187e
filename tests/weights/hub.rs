//! Downloads, against a server of the test's own that answers as the hub does.

use crate::training::training_checkpoint;
use segface::{
    Backbone, ModelSpec, Variant,
    weights::{Hub, Published, Weights, WeightsError, seeded},
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does with requests for the file.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    /// Sends it.
    Sound,
    /// Sends it with a byte changed.
    Damaged,
    /// Hangs up in the middle.
    CutOff,
    /// Has no such file.
    NotFound,
}

struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
}

fn serve(content: Vec<u8>, behaviour: Behaviour) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let content: Arc<[u8]> = content.into();
    // Ends with the test's process: it waits for connections that no longer come.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            let content = content.clone();
            // A client that hangs up early is its own business.
            std::thread::spawn(move || stream.and_then(|stream| answer(stream, &content, behaviour)));
        }
    });
    Server { address, requests }
}

fn answer(mut stream: TcpStream, content: &[u8], behaviour: Behaviour) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut start = 0;
    let mut end = content.len();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().trim().strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-').unwrap();
            start = from.parse().unwrap();
            end = to.parse().map_or(content.len(), |last: usize| last + 1);
        }
    }
    if behaviour == Behaviour::NotFound
        || path != "/kartiknarayan/SegFace/resolve/main/mobilenet_celeba_512/model_299.pt"
    {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let etag: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut body = content[start..end].to_vec();
    if behaviour == Behaviour::Damaged && body.len() > 1 {
        let middle = body.len() / 2;
        body[middle] ^= 1;
    }
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n\
         x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{etag}\"\r\netag: \"ignored\"\r\nConnection: close\r\n\r\n",
        body.len(),
        end - 1,
        content.len()
    )?;
    let sent = if behaviour == Behaviour::CutOff && body.len() > 1 { body.len() / 2 } else { body.len() };
    stream.write_all(&body[..sent])
}

fn mobilenet() -> (ModelSpec, Vec<u8>) {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    (spec, training_checkpoint(seeded(spec).tensors()))
}

fn hub(server: &Server, folder: &Path) -> Hub {
    Hub {
        endpoint: server.address.clone(),
        cache: folder.join("hub"),
        converted: folder.join("assets/segface"),
        offline: false,
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned())
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_download_is_checked_converted_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (spec, content) = mobilenet();
    let server = serve(content, Behaviour::Sound);
    let hub = hub(&server, folder.path());
    let model = Published::named("mobilenet_celeba_512").unwrap();
    let path = hub.fetch(&model, false).unwrap();
    assert_eq!(path, folder.path().join("assets/segface/mobilenet_celeba_512.safetensors"));
    let weights = Weights::load(&path).unwrap();
    assert_eq!((weights.spec, weights.resolution), (spec, Some(512)));
    let requests = server.requests.load(Ordering::SeqCst);
    assert_eq!(hub.fetch(&model, false).unwrap(), path);
    assert_eq!(server.requests.load(Ordering::SeqCst), requests, "the network was asked again");
    // The checkpoint lies in the shared cache as other tools expect it, so a lost conversion costs no download.
    fs::remove_file(&path).unwrap();
    let offline = Hub { offline: true, ..hub.clone() };
    assert_eq!(offline.fetch(&model, false).unwrap(), path);
    // Asked to, it fetches anew.
    assert!(matches!(offline.fetch(&model, true), Err(WeightsError::Download { .. })));
    hub.fetch(&model, true).unwrap();
    assert!(server.requests.load(Ordering::SeqCst) > requests);
}

#[test]
fn a_damaged_download_is_refused_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(mobilenet().1, Behaviour::Damaged);
    let error =
        hub(&server, folder.path()).fetch(&Published::named("mobilenet_celeba_512").unwrap(), false).unwrap_err();
    assert!(matches!(error, WeightsError::Checksum { .. }), "{error}");
    let left = files(folder.path());
    assert!(left.iter().all(|name| name == "main" || name.ends_with(".lock")), "left behind: {left:?}");
}

#[test]
fn a_checkpoint_damaged_in_the_cache_is_refused_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(mobilenet().1, Behaviour::Sound);
    let hub = hub(&server, folder.path());
    let model = Published::named("mobilenet_celeba_512").unwrap();
    fs::remove_file(hub.fetch(&model, false).unwrap()).unwrap();
    let blobs = folder.path().join("hub/models--kartiknarayan--SegFace/blobs");
    let blob = fs::read_dir(blobs).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_none()).unwrap();
    let mut content = fs::read(&blob).unwrap();
    content[1000] ^= 1;
    fs::write(&blob, content).unwrap();
    assert!(matches!(hub.fetch(&model, false), Err(WeightsError::Checksum { .. })));
    // The next try fetches a sound one.
    assert!(hub.fetch(&model, false).is_ok());
}

#[test]
fn a_download_that_breaks_off_is_an_error_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (_, content) = mobilenet();
    let model = Published::named("mobilenet_celeba_512").unwrap();
    let server = serve(content.clone(), Behaviour::CutOff);
    let error = hub(&server, folder.path()).fetch(&model, false).unwrap_err();
    assert!(matches!(error, WeightsError::Download { .. }), "{error}");
    assert!(!folder.path().join("assets").exists());
    let server = serve(content, Behaviour::Sound);
    assert!(hub(&server, folder.path()).fetch(&model, false).is_ok());
}

#[test]
fn a_hub_that_does_not_answer_or_has_no_such_file_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let model = Published::named("mobilenet_celeba_512").unwrap();
    let server = serve(Vec::new(), Behaviour::NotFound);
    let message = hub(&server, folder.path()).fetch(&model, false).unwrap_err().to_string();
    assert!(message.contains("404") && message.contains("--weights"), "{message}");
    // A port nobody listens on any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Hub { endpoint: format!("http://{port}"), ..hub(&server, folder.path()) };
    let message = nobody.fetch(&model, false).unwrap_err().to_string();
    assert!(message.contains("cannot download mobilenet_celeba_512") && message.contains("--weights"), "{message}");
    assert!(!folder.path().join("assets").exists());
}

//! Requests and hijacked connections, against hyper's server and against bytes written by hand.

use std::convert::Infallible;

use bytes::Bytes;
use gantry_transport::{Access, Endpoint, Hijacked, HttpClient, Listener, Stream, Upgrade};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn bound() -> (tempfile::TempDir, Listener, HttpClient) {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&Endpoint::unix(directory.path().join("s")), &Access::local(0o600, None)).unwrap();
    let client = HttpClient::new(listener.endpoint().clone());
    (directory, listener, client)
}

fn post(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(Bytes::from(body))).unwrap()
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("{} {:?}", request.uri(), request.headers().get("host").unwrap());
    if request.uri().path() != "/attach" {
        let status = if request.uri().path() == "/missing" { StatusCode::NOT_FOUND } else { StatusCode::OK };
        return Ok(Response::builder().status(status).body(Full::new(text.into())).unwrap());
    }
    let body = request.body_mut().collect().await.unwrap().to_bytes();
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut stream = Hijacked::from_upgraded(upgrade.await.unwrap()).unwrap();
        let mut input = Vec::new();
        stream.read_to_end(&mut input).await.unwrap();
        stream.write_all(&[b"after end of input: ".as_slice(), &body, b" ", &input].concat()).await.unwrap();
    });
    let head = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "tcp");
    Ok(head.body(Full::default()).unwrap())
}

fn serve(stream: Stream) -> impl Future<Output = Result<(), hyper::Error>> {
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades()
}

#[tokio::test]
async fn a_request_gets_its_answer_and_the_path_only_is_sent() {
    let (_directory, listener, client) = bound();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().enter().await.unwrap().0).await });
    let answer = client.request(post("http://ignored/missing?x=1", "")).await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "/missing?x=1 \"localhost\"");
}

#[tokio::test]
async fn an_upgraded_connection_answers_after_its_input_was_closed() {
    let (_directory, listener, client) = bound();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().enter().await.unwrap().0).await });
    let Upgrade::Hijacked(head, mut stream) = client.upgrade(post("/attach", "{}")).await.unwrap() else {
        panic!("not hijacked")
    };
    assert_eq!(head.status, 101);
    stream.write_all(b"input").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = String::new();
    stream.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "after end of input: {} input");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_with_its_body() {
    let (_directory, listener, client) = bound();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().enter().await.unwrap().0).await });
    let Upgrade::Answered(answer) = client.upgrade(post("/missing", "")).await.unwrap() else { panic!("hijacked") };
    assert_eq!(answer.status(), 404);
    assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

/// Answers these bytes to the first request, then what it is sent, back.
async fn by_hand(listener: Listener, answer: &'static [u8]) {
    let (mut stream, _) = listener.accept().await.unwrap().enter().await.unwrap();
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        stream.read_buf(&mut request).await.unwrap();
    }
    stream.write_all(answer).await.unwrap();
    let mut input = Vec::new();
    stream.read_to_end(&mut input).await.unwrap();
    stream.write_all(&input).await.unwrap();
}

#[tokio::test]
async fn bytes_that_came_with_the_head_are_the_streams_first() {
    for head in [
        b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ".as_slice(),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nearly ",
    ] {
        for split in [false, true] {
            let (_directory, listener, client) = bound();
            tokio::spawn(by_hand(listener, head));
            let Upgrade::Hijacked(_, mut stream) = client.upgrade(post("/attach", "")).await.unwrap() else {
                panic!("not hijacked")
            };
            let mut output = String::new();
            if split {
                let (mut read, mut write) = stream.into_split();
                write.write_all(b"late").await.unwrap();
                write.shutdown().await.unwrap();
                read.read_to_string(&mut output).await.unwrap();
            } else {
                stream.write_all(b"late").await.unwrap();
                stream.shutdown().await.unwrap();
                stream.read_to_string(&mut output).await.unwrap();
            }
            assert_eq!(output, "early late");
        }
    }
}

#[tokio::test]
async fn dropping_the_answer_closes_the_connection() {
    let (_directory, listener, client) = bound();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap().enter().await.unwrap();
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await
    });
    let mut answer = client.request(post("/events", "")).await.unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    drop(answer);
    tokio::time::timeout(std::time::Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_that_hangs_up_is_an_error_that_names_it() {
    let (_directory, listener, client) = bound();
    let hang_up = async { drop(listener.accept().await.unwrap().enter().await.unwrap()) };
    let (error, ()) = tokio::join!(client.request(post("/x", "")), hang_up);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("error during connect: unix:///"), "{error}");
}

#[tokio::test]
async fn a_client_waits_where_so_many_wait_already_that_the_kernel_takes_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let endpoint = Endpoint::unix(path);
    let connect = || gantry_transport::connect(&endpoint, None);
    let first = connect().await.unwrap();
    let mut second = Box::pin(connect());
    let is_waiting = std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
    assert!(is_waiting);
    let listener = std::os::unix::net::UnixListener::from(socket);
    drop(listener.accept().unwrap());
    let mut second = second.await.unwrap();
    let (mut served, _) = listener.accept().unwrap();
    second.write_all(b"x").await.unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(&mut served, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
    drop(first);
}

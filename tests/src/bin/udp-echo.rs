//! Sends every datagram back: what a test runs inside a container to see a published UDP port.

fn main() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:5353")?;
    let mut buffer = [0; 2048];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], sender)?;
    }
}

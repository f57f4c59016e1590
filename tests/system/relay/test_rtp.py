"""RTP, as an IP camera sends it: four replicas record what one recorder without the relay does, frame by frame."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import Running
from tests.support.lan import Host, Lan, Relay, lan, waiting
from tests.support.waiting import until

REPLICAS = 4
VIDEO, AUDIO = 32546, 32548
"""Each has its RTCP on the port above it."""
PORTS = range(VIDEO, AUDIO + 2)
FRAMES = {"v": 30, "a": 16}
_SDP = f"""v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 127.0.0.1
t=0 0
m=video {VIDEO} RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
m=audio {AUDIO} RTP/AVP 0
"""
_CAMERA = (
    "ffmpeg -nostdin -f lavfi -i testsrc2=size=160x120:rate=15 -f lavfi -i sine=frequency=441:sample_rate=8000"
    " -t 2 -map 0:v -map 1:a -flags:v bitexact -c:v libx264 -preset ultrafast -tune zerolatency -g 25"
    " -threads 1 -c:a pcm_mulaw -f tee"
)
Packets = dict[int, list[bytes]]
"""Of each port, in order; few enough for a receive buffer, however late somebody reads."""


def film(camera: Host) -> Packets:
    """Return what a camera sends in two seconds; the last packet to each port of RTCP says goodbye."""
    opened = {port: camera.listen("127.0.0.1", port) for port in PORTS}
    streams = "|".join(
        f"[f=rtp:select={stream}:ssrc={port}:seq=1:fflags=+bitexact:rtpflags=send_bye]rtp://127.0.0.1:{port}"
        for stream, port in (("v", VIDEO), ("a", AUDIO))
    )
    ended = camera.start(*_CAMERA.split(), streams).end()
    assert ended.code == 0, ended
    return {port: waiting(each) for port, each in opened.items()}


def record(host: Host, sdp: Path, into: Path) -> Running:
    """Start a recorder of each frame's hash, and return once it listens; it ends when all streams have said goodbye."""
    source = ("-protocol_whitelist", "file,udp,rtp", "-i", str(sdp))
    recorder = host.start("ffmpeg", "-nostdin", *source, "-map", "0", "-c", "copy", "-f", "framemd5", str(into))
    host.wait_for_listener(*PORTS)
    return recorder


def frames(recording: Path) -> list[str]:
    """Return the time, the size and the hash of each frame, by stream."""
    return sorted(line for line in recording.read_text().splitlines() if not line.startswith("#"))


def test_replicas_behind_the_relay_record_what_a_direct_recorder_does(tmp_path: Path) -> None:
    with lan(REPLICAS + 1) as world:
        *replicas, listener = world.pods
        rtcp = [listener.listen("::", port + 1) for port in (VIDEO, AUDIO)]
        record_all(world, replicas, tmp_path)
        reports = [waiting(opened) for opened in rtcp]
    for port, packets in zip((VIDEO, AUDIO), reports, strict=True):
        # RFC 3550, 6.4.1: sender reports (type 200) of the source whose RTP goes to the port below.
        senders = {int.from_bytes(packet[4:8], "big") for packet in packets if packet[1] == 200}
        assert senders == {port}, "RTP and RTCP stay a pair"
    taken, *relayed = [frames(tmp_path / f"{number}.md5") for number in range(1 + REPLICAS)]
    assert len(taken) == sum(FRAMES.values())
    assert len({line.split(",")[5] for line in taken}) == len(taken), "no two frames are the same"
    for replica in relayed:
        assert replica == taken


def record_all(world: Lan, replicas: list[Host], tmp_path: Path) -> None:
    sdp = tmp_path / "camera.sdp"
    sdp.write_text(_SDP)
    packets = film(world.source)
    direct = world.add_source()
    relay = Relay(world.edge, "-s", world.service(), "--listen", f"udp://0.0.0.0:{PORTS[0]}-{PORTS[-1]}")
    hosts = [direct, *replicas]
    recorders = [record(host, sdp, tmp_path / f"{number}.md5") for number, host in enumerate(hosts)]
    sender = world.source.udp()
    sent = 0

    def send(port: int, *some: bytes) -> None:
        """Send packets to the relay and to the direct recorder, and wait until all recorders have read them."""
        nonlocal sent
        for packet in some:
            for address in (world.edge.lan, direct.lan):
                sender.sendto(packet, (address, port))
        sent += len(some)
        until(lambda: relay.count("fanout_relay_forwarded_total") == sent, "they are forwarded")
        until(lambda: not any(host.unread(*PORTS) for host in hosts), "they are read")

    # A recorder looks at RTCP first where both wait. The first reports give the time, and goodbye is the end.
    rtp, goodbye = (VIDEO, AUDIO), {port: packets[port + 1].pop() for port in (VIDEO, AUDIO)}
    for port in rtp:
        send(port + 1, *packets[port + 1])
    for port in rtp:
        send(port, *packets[port])
    for port in rtp:
        send(port + 1, goodbye[port])
    for recorder in recorders:
        assert recorder.end().code == 0, recorder.err

"""RTP, as an IP camera sends it: four replicas record what one recorder without the relay does, frame by frame."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.cli import Running
from tests.support.lan import Host, Lan, Relay, lan, waiting

REPLICAS = 4
VIDEO, AUDIO = 32546, 32548
"""Each has its RTCP on the port above it."""
SECONDS = 4
FRAMES = {"v": 90, "a": 28}
"""What is recorded, of the 100 and 31 that are sent: a recorder that waited for the end might wait long."""
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
    "ffmpeg -nostdin -re -f lavfi -i testsrc2=size=320x240:rate=25 -re -f lavfi -i sine=frequency=441:sample_rate=8000"
    f" -t {SECONDS} -map 0:v -map 1:a -flags:v bitexact -c:v libx264 -preset ultrafast -tune zerolatency -g 25"
    " -threads 1 -c:a pcm_mulaw -f tee"
)


def record(host: Host, sdp: Path, into: Path) -> Running:
    """Start a recorder, and return once it listens: its first frame is then the camera's first."""
    limits = [word for stream, frames in FRAMES.items() for word in (f"-frames:{stream}", str(frames))]
    whitelist = ("-protocol_whitelist", "file,udp,rtp")
    recorder = host.start(
        "ffmpeg", "-nostdin", *whitelist, "-i", str(sdp), "-map", "0", "-c", "copy", *limits, str(into)
    )
    host.wait_for_listener(*range(VIDEO, AUDIO + 2))
    return recorder


def stream_to(camera: Host, *addresses: str) -> Running:
    """Send the same packets to each address."""
    return camera.start(
        *_CAMERA.split(),
        "|".join(
            f"[f=rtp:select={stream}:ssrc={port}:seq=1:fflags=+bitexact]rtp://{address}:{port}"
            for address in addresses
            for stream, port in (("v", VIDEO), ("a", AUDIO))
        ),
    )


def frame_md5(recording: Path) -> list[str]:
    """Return the time, the size and the hash of each frame, by stream."""
    shown = subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(recording), "-f", "framemd5", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(line for line in shown.stdout.splitlines() if not line.startswith("#"))


@pytest.mark.alone
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
    taken, *relayed = [frame_md5(tmp_path / f"{number}.nut") for number in range(1 + REPLICAS)]
    assert len(taken) == sum(FRAMES.values())
    assert len({line.split(",")[-1] for line in taken}) == len(taken), "no two frames are the same"
    for replica in relayed:
        assert replica == taken


def record_all(world: Lan, replicas: list[Host], tmp_path: Path) -> None:
    sdp = tmp_path / "camera.sdp"
    sdp.write_text(_SDP)
    direct = world.add_source()
    Relay(world.edge, "-s", world.service(), "--listen", f"udp://0.0.0.0:{VIDEO}-{AUDIO + 1}")
    recorders = [record(host, sdp, tmp_path / f"{number}.nut") for number, host in enumerate([direct, *replicas])]
    stream_to(world.source, world.edge.lan, direct.lan)
    for recorder in recorders:
        assert recorder.end().code == 0, recorder.err

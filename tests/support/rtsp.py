#!/usr/bin/python3
"""A camera: an RTSP server on 127.0.0.1 with a flash and a beep at each full second.

    rtsp.py PORT VIDEO AUDIO COLOUR [USER PASSWORD]     (with TLS, if CERTIFICATE names a PEM file of certificate and key)

VIDEO is h264, h265 or jpeg; AUDIO is aac, pcma, opus or none; COLOUR is RRGGBB, of the picture between the flashes. With a
user it wants digest authentication. Port 0 takes a free one. Prints "ready PORT".
"""
import math, os, struct, sys

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer
except (ImportError, ValueError) as missing:
    sys.exit(f"{missing}: run scripts/setup (python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-rtsp)")

PORT, VIDEO, AUDIO, COLOUR = sys.argv[1:5]
LOGIN = sys.argv[5:7]
CERTIFICATE = os.environ.get("CERTIFICATE")
WIDTH, HEIGHT, FPS = 320, 180, 15
RATE, SAMPLES = 48000, 960

VIDEOS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! h265parse ! rtph265pay name=pay0 pt=96",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}
AUDIOS = {
    "aac": "avenc_aac ! rtpmp4gpay name=pay1 pt=97",
    "pcma": "audioresample ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay name=pay1 pt=8",
    "opus": "opusenc ! rtpopuspay name=pay1 pt=97",
}


def frame(red, green, blue):
    y = 16 + (66 * red + 129 * green + 25 * blue) / 256
    u = 128 + (112 * blue - 38 * red - 74 * green) / 256
    v = 128 + (112 * red - 94 * green - 18 * blue) / 256
    luma, chroma = WIDTH * HEIGHT, WIDTH * HEIGHT // 4
    return bytes([round(y)]) * luma + bytes([round(u)]) * chroma + bytes([round(v)]) * chroma


PLAIN = frame(*bytes.fromhex(COLOUR))
WHITE = frame(255, 255, 255)
TONE = [round(16000 * math.sin(2 * math.pi * 1000 * n / RATE)) for n in range(SAMPLES)]
TONE = struct.pack(f"<{SAMPLES}h", *TONE)
SILENCE = bytes(2 * SAMPLES)


class Feeder:
    """Pushes what belongs to each moment; the server's sinks keep the pace."""

    def __init__(self, source, ticks, bright, dark):
        self.ticks, self.bright, self.dark, self.n = ticks, bright, dark, 0
        source.connect("need-data", self.push)

    def push(self, source, _):
        at = self.n * Gst.SECOND // self.ticks
        buffer = Gst.Buffer.new_wrapped(self.bright if at % Gst.SECOND < Gst.SECOND // 10 else self.dark)
        buffer.pts, buffer.duration = at, Gst.SECOND // self.ticks
        self.n += 1
        source.emit("push-buffer", buffer)


def configure(_, media):
    bin = media.get_element()
    media.feeders = [Feeder(bin.get_by_name("video"), FPS, WHITE, PLAIN)]
    if AUDIO != "none":
        media.feeders.append(Feeder(bin.get_by_name("audio"), RATE // SAMPLES, TONE, SILENCE))


Gst.init(None)
picture = f"video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FPS}/1"
sound = f"audio/x-raw,format=S16LE,layout=interleaved,rate={RATE},channels=1"
launch = f"appsrc name=video format=time max-bytes=200000 caps={picture} ! {VIDEOS[VIDEO]}"
if AUDIO != "none":
    launch += f" appsrc name=audio format=time max-bytes=8000 caps={sound} ! audioconvert ! {AUDIOS[AUDIO]}"
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( {launch} )")
factory.set_shared(True)
factory.connect("media-configure", configure)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(PORT)
if LOGIN or CERTIFICATE:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if CERTIFICATE:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(CERTIFICATE))
    if LOGIN:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(LOGIN[0], LOGIN[1], token)
    else:
        auth.set_default_token(token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.from_string("viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true")[0]
    )
server.get_mount_points().add_factory("/cam", factory)
if server.attach(None) == 0:
    sys.exit(f"port {PORT} cannot be taken")
print("ready", server.get_bound_port(), flush=True)
GLib.MainLoop().run()

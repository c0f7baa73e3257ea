# {{ ansible_managed }}
import logging
import os

# Here and not in the unit, which both colours share: what a deploy could not start must not be what the other one finds after a boot.
chdir = os.path.realpath(os.path.join(os.environ["VIRTUAL_ENV"], "..", "src", "{{ app_project_dir }}"))
# The socket is systemd's: gunicorn takes it over and listens on nothing else.
workers = {{ app_gunicorn_workers or '2 * len(os.sched_getaffinity(0)) + 1' }}
threads = {{ app_gunicorn_threads }}
timeout = {{ app_gunicorn_timeout }}
graceful_timeout = {{ app_gunicorn_timeout }}
max_requests = {{ app_gunicorn_max_requests }}
max_requests_jitter = {{ (app_gunicorn_max_requests | int / 10) | int }}
# Heartbeats on a disk can stall a worker when the disk does.
worker_tmp_dir = "/dev/shm"
# Every connection comes from nginx over the unix socket.
forwarded_allow_ips = "*"
control_socket_disable = True
accesslog = None
errorlog = "-"

# What gunicorn itself says of an error is one entry of the journal, as what the project says is. Without the guard each line is one.
try:
    from gunicorn.glogging import Logger
    from redoubt_guard.logs import JournalHandler

    class logger_class(Logger):
        def _set_handler(self, log, *words, **named):
            super()._set_handler(log, *words, **named)
            for handler in log.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.__class__ = JournalHandler
except ImportError:
    pass

# gunicorn sends the headers and the body one after the other. A worker that is killed in between leaves nginx with an answer that has
# begun, which it cannot ask for again: the first piece of the body goes with the headers. A gunicorn built otherwise is left as it is.
try:
    from gunicorn.http.wsgi import Response
except ImportError:
    Response = None


class Together:
    """A connection that keeps what it is told to send until it is told anything else."""

    def __init__(self, sock):
        self.sock, self.kept = sock, b""

    def sendall(self, data):
        self.kept += data

    def send_kept(self):
        kept, self.kept = self.kept, b""
        if kept:
            self.sock.sendall(kept)

    def __getattr__(self, name):
        self.send_kept()
        return getattr(self.sock, name)


def together(stock):
    def write_first(self, data):
        if getattr(self, "headers_sent", True) or not hasattr(self, "sock"):
            return stock(self, data)
        sock = self.sock
        self.sock = both = Together(sock)
        try:
            return stock(self, data)
        finally:
            self.sock = sock
            both.send_kept()

    return write_first


# Every reload reads this file again.
if hasattr(Response, "write") and Response.write.__name__ != "write_first":
    Response.write = together(Response.write)

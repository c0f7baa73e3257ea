# {{ ansible_managed }}
# The socket is systemd's: gunicorn takes it over and listens on nothing else.
workers = {{ app_gunicorn_workers }}
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

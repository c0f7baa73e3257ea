"""Neither users nor a database."""

import os

SECRET_KEY = "bare-0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGH"
ROOT_URLCONF = "bare_urls"
DERIVED = [os.path.basename(__file__)]
lower_case = "not a setting"

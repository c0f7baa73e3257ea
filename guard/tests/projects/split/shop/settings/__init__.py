from split_settings.tools import include, optional

include("parts/base.py", "parts/data.py", optional("parts/local.py"))

"""Hardened settings, security events, health answers and slowed password guessing for a Django project that knows nothing of them.

Put beside a deployed project and named in DJANGO_SETTINGS_MODULE as `redoubt_guard.settings`; `docs/guard.md` describes all of it.
"""

from setuptools import Extension, setup

setup(name="shelfmark", version="1.0", ext_modules=[Extension("shelfmark", ["shelfmark.c"])])

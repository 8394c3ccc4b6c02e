"""The web page: one package a tab, and around them the app and how it is served."""

import os

from ftlab.tabs.stub_files import leave_out_stub_files

# gradio and huggingface_hub read these when they are imported, so they are set before any module of
# this package imports them. No telemetry is sent.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# After every event gradio aggregates its last 10,000 events with pandas, for a statistics page that
# is not served here. With 50 browsers polling, that alone took a whole core.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
leave_out_stub_files()

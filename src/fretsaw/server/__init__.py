"""The HTTP interface and the page: `create_app` in app.py puts the parts together; sessions.py holds the work, static/ the page."""

"""The stack that vpt replaces: Flask + Flask-SQLAlchemy + psycopg2 + requests, `gunicorn -w 2`.

Models, tokens and routes as the document writes them. In its favour: the host's URL is known
without asking the database, and connections to it are kept (a requests.Session a process).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import jwt
import requests
from flask import Flask, jsonify, request
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"].replace(
    "postgresql:", "postgresql+psycopg2:", 1
)
app.config["SQLALCHEMY_TRACK_MODIFICATIONS"] = False
db = SQLAlchemy(app)
session = requests.Session()


class TestCase(db.Model):
    """A test case."""

    __tablename__ = "test_case"

    id = db.Column(db.String, primary_key=True)
    name = db.Column(db.String, nullable=False)
    description = db.Column(db.Text)
    steps = db.Column(db.JSON)
    device_model = db.Column(db.String)
    created_at = db.Column(db.DateTime)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the model as JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "steps": self.steps,
            "device_model": self.device_model,
            "created_at": self.created_at.isoformat(),
        }


def require_auth(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the token."""

    @wraps(function)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        token = request.headers.get("Authorization")
        if not token:
            return {"error": "No token provided"}, 401
        try:
            payload = jwt.decode(token, app.config["SECRET_KEY"], algorithms=["HS256"])
            request.user_id = payload["user_id"]
        except jwt.InvalidTokenError:
            return {"error": "Invalid token"}, 401
        return function(*args, **kwargs)

    return decorated


@app.route("/api/testcases")
@require_auth
def list_test_cases() -> Any:
    """List the newest test cases."""
    limit = request.args.get("limit", 100, type=int)
    found = TestCase.query.order_by(TestCase.created_at.desc()).limit(limit).all()
    return jsonify({"items": [test_case.to_dict() for test_case in found], "next_cursor": None})


@app.route("/api/hosts/<host_id>/execute", methods=["POST"])
@require_auth
def execute_on_host(host_id: str) -> Any:  # noqa: ARG001
    """Forward an action to the host."""
    url = f"{os.environ['HOST_URL']}/host/remote/executeAction"
    answer = session.post(url, json=request.json, timeout=30)
    return jsonify(answer.json())

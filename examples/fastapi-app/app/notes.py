"""Notes: write one, list them, read one."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.database import Note
from app.resources import ResourcesDep

log = logging.getLogger(__name__)
router = APIRouter(prefix="/notes", tags=["notes"])


class NoteIn(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


class NoteOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str
    created_at: datetime


class NoteRead(NoteOut):
    views: int | None = None


@router.post("", status_code=201)
async def create_note(note: NoteIn, resources: ResourcesDep, response: Response) -> NoteOut:
    async with resources.database.session() as session:
        row = Note(text=note.text)
        session.add(row)
        await session.commit()
    log.info("note created", extra={"note": row.id})
    response.headers["location"] = f"/notes/{row.id}"
    return NoteOut.model_validate(row)


@router.get("")
async def list_notes(resources: ResourcesDep, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> list[NoteOut]:
    """The latest notes first."""
    async with resources.database.session() as session:
        rows = await session.scalars(select(Note).order_by(Note.id.desc()).limit(limit))
        return [NoteOut.model_validate(row) for row in rows]


@router.get("/{note_id}")
async def read_note(note_id: int, resources: ResourcesDep) -> NoteRead:
    async with resources.database.session() as session:
        row = await session.get(Note, note_id)
    if row is None:
        raise HTTPException(404, "no such note")
    note = NoteRead.model_validate(row)
    if resources.views:
        note.views = await resources.views.count(note_id)
    return note

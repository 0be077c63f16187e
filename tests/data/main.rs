//! Folders of labelled faces: read as published, loaded by several threads, checked.

mod check;
mod fixtures;
mod loading;
mod published;
mod reading;
mod synthetic;
mod wrong;

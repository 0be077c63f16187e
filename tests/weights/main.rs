//! Weights from the outside: files as users have them, good and bad.

mod command_line;
#[path = "../finished.rs"]
mod finished;
mod hostile;
mod hub;
mod networks;
mod pt;
mod reading;
mod safetensors_files;
mod seeded_values;
mod training;

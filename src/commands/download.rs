//! `segface download`: fetches a published checkpoint.

use segface::{
    Error,
    weights::{Hub, PUBLISHED, Published, REPOSITORY},
};

/// Download a published checkpoint, check it and keep it as safetensors; then `--model NAME` finds it
///
/// Files go to the Hugging Face cache (HF_HOME and HF_HUB_CACHE are honoured). Without NAME, lists the published ones.
#[derive(clap::Args)]
pub(crate) struct DownloadArgs {
    /// Which checkpoint, e.g. swinb_celeba_512
    name: Option<String>,
    /// Fetch and convert it again even if it is in the cache
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: DownloadArgs) -> Result<(), Error> {
    let hub = Hub::from_env()?;
    let Some(name) = args.name else {
        return super::print(|out| {
            writeln!(out, "published checkpoints (https://huggingface.co/{REPOSITORY}):")?;
            PUBLISHED.iter().try_for_each(|model| {
                let state = if hub.converted(model).exists() { "  in the cache" } else { "" };
                writeln!(out, "  {:<24} {:<6} {:>3} px{state}", model.name, model.variant.name(), model.resolution)
            })
        });
    };
    let model = Published::named(&name)?;
    let path = hub.fetch(&model, args.force)?;
    super::print(|out| writeln!(out, "{}", path.display()))
}

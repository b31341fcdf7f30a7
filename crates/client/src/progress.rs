//! What a pull or import reports: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::time::Instant;

use gantry_api::progress::Progress;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::daemon::broken;
use crate::failure::{Failure, Result};
use crate::pace::{self, Pace};
use crate::printer::Output;

/// The longest message that is believed to be one.
const LINE_LIMIT: usize = 1 << 20;

/// Shows a stream of messages to its end. An error in it is the failure.
pub async fn show(body: Incoming, output: Output, quiet: bool) -> Result<()> {
    show_with(body, output, quiet, |_| ()).await
}

/// The same; facts for programs among the messages go to `aux`.
pub async fn show_with(body: Incoming, output: Output, quiet: bool, mut aux: impl FnMut(&Value)) -> Result<()> {
    let mut view = View::new(output, quiet);
    let outcome = read(body, |message| {
        message.aux.iter().for_each(&mut aux);
        view.show(message)
    });
    let outcome = outcome.await;
    view.finish()?;
    outcome
}

/// Reads messages one by one; an error among them ends it.
pub async fn read(mut body: Incoming, mut show: impl FnMut(&Progress) -> Result<()>) -> Result<()> {
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        buffer.extend_from_slice(&bytes);
        let mut messages = serde_json::Deserializer::from_slice(&buffer).into_iter::<Progress>();
        let mut failure = None;
        while failure.is_none() {
            match messages.next() {
                None => break,
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(error)) => failure = Some(error.into()),
                Some(Ok(message)) => failure = take(&message, &mut show).err(),
            }
        }
        let done = messages.byte_offset();
        if let Some(failure) = failure {
            return Err(failure);
        }
        buffer.drain(..done);
        if buffer.len() > LINE_LIMIT {
            return Err(Failure::new("a message of the daemon is too long"));
        }
    }
    if !buffer.trim_ascii().is_empty() {
        return Err(Failure::new("the daemon broke off within a message"));
    }
    Ok(())
}

fn take(message: &Progress, show: &mut impl FnMut(&Progress) -> Result<()>) -> Result<()> {
    let detail = message.error_detail.as_ref().map(|detail| detail.message.as_str()).filter(|text| !text.is_empty());
    match detail.or(message.error.as_deref()) {
        Some(error) => Err(Failure::new(error)),
        None => show(message),
    }
}

struct View {
    output: Output,
    quiet: bool,
    bars: Option<MultiProgress>,
    lines: HashMap<String, (ProgressBar, Pace)>,
    /// What is said about the whole while bars move; it belongs below them.
    held: Vec<Progress>,
}

impl View {
    fn new(output: Output, quiet: bool) -> Self {
        let bars = (!quiet && output.is_terminal()).then(|| {
            MultiProgress::with_draw_target(match output {
                Output::Out => ProgressDrawTarget::stdout(),
                Output::Err => ProgressDrawTarget::stderr(),
            })
        });
        Self { output, quiet, bars, lines: HashMap::new(), held: Vec::new() }
    }

    fn show(&mut self, message: &Progress) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        match (&self.bars, &message.id) {
            (Some(_), Some(id)) if !id.is_empty() && message.stream.is_none() => self.bar(id, message),
            (Some(_), _) if !self.lines.is_empty() => self.held.push(message.clone()),
            _ => self.plain(message)?,
        }
        Ok(())
    }

    fn bar(&mut self, id: &str, message: &Progress) {
        let Some(bars) = &self.bars else { return };
        let (bar, pace) = self.lines.entry(id.to_owned()).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_prefix(id.to_owned());
            bar.set_style(style("{prefix}: {msg}"));
            (bar, Pace::default())
        });
        bar.set_message(message.status.clone());
        let detail = message.detail.unwrap_or_default();
        match (detail.current, detail.total) {
            (Some(current), Some(total)) if total > 0 => {
                pace.note(&message.status, Instant::now(), current);
                let left = pace.left(total).filter(|_| current < total).map(|left| format!(" {}", pace::short(left)));
                // 80 columns hold it with the time that is left, which stands last.
                let template = "{prefix}: {msg} [{bar:20}] {decimal_bytes}/{decimal_total_bytes}";
                bar.set_style(style(&format!("{template}{}", left.unwrap_or_default())).progress_chars("=> "));
                bar.set_length(total);
                bar.set_position(current);
            }
            (Some(current), _) if current > 0 => {
                bar.set_style(style("{prefix}: {msg} {decimal_bytes}"));
                bar.set_position(current);
            }
            _ => bar.set_style(style("{prefix}: {msg}")),
        }
    }

    /// One line; how far something is would only repeat itself.
    fn plain(&self, message: &Progress) -> Result<()> {
        if let Some(text) = &message.stream {
            return Ok(self.output.write(text.as_bytes())?);
        }
        let moving = message.detail.is_some_and(|detail| detail.current.is_some_and(|current| current > 0));
        if moving || message.status.is_empty() {
            return Ok(());
        }
        let line = match message.id.as_deref() {
            Some(id) if !id.is_empty() => format!("{id}: {}\n", message.status),
            _ => format!("{}\n", message.status),
        };
        Ok(self.output.write(line.as_bytes())?)
    }

    /// Leaves the last state of each bar on the screen, and the rest below.
    fn finish(&mut self) -> Result<()> {
        for (_, (bar, _)) in self.lines.drain() {
            bar.abandon();
        }
        self.bars = None;
        std::mem::take(&mut self.held).iter().try_for_each(|message| self.plain(message))
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

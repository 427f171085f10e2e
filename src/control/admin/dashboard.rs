//! The dashboard's files, each as it stands in the source.

use super::message::Response;

/// One of them. The page has two paths: the demo has a page of its own at `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Page,
    Style,
    Script,
}

impl File {
    pub(super) fn response(self) -> Response {
        let (kind, text) = match self {
            File::Page => ("text/html; charset=utf-8", PAGE),
            File::Style => ("text/css; charset=utf-8", STYLE),
            File::Script => ("text/javascript; charset=utf-8", SCRIPT),
        };
        Response::new(200, kind, text.to_string())
            .with("Content-Security-Policy", POLICY)
            .with("Referrer-Policy", "no-referrer")
    }
}

const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/style.css");
/// One script in parts: what stands in one is known to those behind it.
const SCRIPT: &str = concat!(
    include_str!("dashboard/base.js"),
    include_str!("dashboard/stream.js"),
    include_str!("dashboard/verdict.js"),
    include_str!("dashboard/servers.js"),
    include_str!("dashboard/charts.js"),
    include_str!("dashboard/news.js"),
    include_str!("dashboard/sessions.js"),
    include_str!("dashboard/views.js"),
);

/// Nothing inline, nothing of anybody else, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_inline_nothing_from_outside_and_no_markup_from_text() {
        for (text, forbidden) in [
            (
                PAGE,
                &["<style", "style=", "onclick", "<script>", "http:", "https:"][..],
            ),
            (STYLE, &["@import", "url("][..]),
            (
                SCRIPT,
                &[
                    "innerHTML",
                    "outerHTML",
                    "insertAdjacentHTML",
                    "document.write",
                    "eval(",
                    "https:",
                ][..],
            ),
        ] {
            for word in forbidden {
                assert!(!text.contains(word), "{word}");
            }
        }
    }
}

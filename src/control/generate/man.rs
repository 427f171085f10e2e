//! The man page: what clap knows of the command line, and what it does not.

use clap::Command;
use clap_mangen::Man;

/// One page for the program and all of its commands.
pub fn man(mut command: Command) -> String {
    command.build();
    let page = Man::new(command.clone()).section("1");
    let mut text = Vec::new();
    // Writing to memory can't fail.
    let _ = page.render_title(&mut text);
    let _ = page.render_name_section(&mut text);
    let _ = page.render_synopsis_section(&mut text);
    text.extend_from_slice(DESCRIPTION.as_bytes());
    let _ = page.render_options_section(&mut text);
    text.extend_from_slice(b".SH COMMANDS\n");
    for sub in command.get_subcommands() {
        if sub.get_name() != "help" {
            subcommand(sub, &mut text);
        }
    }
    text.extend_from_slice(REST.as_bytes());
    String::from_utf8_lossy(&text).into_owned()
}

fn subcommand(sub: &Command, text: &mut Vec<u8>) {
    let about = sub.get_about().map(ToString::to_string);
    let about = about.unwrap_or_default().replace('-', "\\-");
    let title = format!(".SS \"wsteady {}\"\n{about}.\n", sub.get_name());
    text.extend_from_slice(title.as_bytes());
    for what in sub.get_subcommands() {
        if what.get_name() != "help" {
            let about = what.get_about().map(ToString::to_string);
            let item = format!(
                ".TP\n\\fB{}\\fR\n{}\n",
                what.get_name(),
                about.unwrap_or_default().replace('-', "\\-")
            );
            text.extend_from_slice(item.as_bytes());
        }
    }
    let takes_all = TAKES_ALL.contains(&sub.get_name());
    if takes_all {
        text.extend_from_slice(b".PP\nIt takes the options above.\n");
    }
    // Options of the program itself stand above, once.
    let is_own = |name: &str| match takes_all {
        true => matches!(name, "connections" | "json"),
        false => name != "help",
    };
    let mut few = Command::new("wsteady").disable_help_flag(true);
    for arg in sub.get_arguments() {
        if is_own(arg.get_id().as_str()) {
            few = few.arg(arg.clone());
        }
    }
    let mut options = Vec::new();
    let _ = Man::new(few).render_options_section(&mut options);
    let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "");
    text.extend_from_slice(options.as_bytes());
}

/// Commands with the same options as the program itself.
const TAKES_ALL: [&str; 3] = ["run", "check", "preflight"];

const DESCRIPTION: &str = "\
.SH DESCRIPTION
A client opens a WebSocket to wsteady; wsteady opens one to a server. When the server is lost, the
client stays connected, and another server gets, in order, every message that the lost one had not
confirmed. A pool may also be an HTTP API, which gets each message as a call, or plain HTTP servers.
";

const REST: &str = "\
.SH SIGNALS
.TP
\\fBTERM\\fR
Takes no new clients, closes the sessions one by one over \\fBdrain\\fR, and ends.
.TP
\\fBINT\\fR, a second \\fBTERM\\fR
Ends at once.
.TP
\\fBHUP\\fR
Is for reading the configuration again.
.SH \"EXIT STATUS\"
.TP
\\fB0\\fR
A clean stop; for \\fBpreflight\\fR: no limit is too small.
.TP
\\fB1\\fR
A failure at run time: an address is taken, say; for \\fBpreflight\\fR: some limit is too small.
.TP
\\fB2\\fR
A wrong command line or configuration.
.SH ENVIRONMENT
Every option with a value has a variable: \\fB\\-\\-listen\\fR is \\fBWSTEADY_LISTEN\\fR, and so on; lists by comma. An option
wins over its variable, that over the file.
.TP
\\fBWSTEADY_ADMIN_TOKEN\\fR
The token that the admin address asks for. It has no option, for command lines can be listed.
.TP
\\fBNOTIFY_SOCKET\\fR
Where systemd is told that wsteady is ready, and that it stops.
.SH FILES
No file is looked for. The package's unit reads \\fI/etc/wsteady/wsteady.yaml\\fR.
";

#[cfg(test)]
mod tests {
    use crate::control::cli;

    #[test]
    fn the_page_has_every_command_and_option() {
        let page = super::man(cli::command());
        let options = [
            ("\\-\\-backend", 1),
            ("\\-\\-config", 1),
            ("\\-\\-connections", 1),
            ("\\-\\-bridge", 1),
            ("\\-\\-json", 1),
            // The demo has its own.
            ("\\-\\-listen", 2),
        ];
        for (word, wanted) in options {
            let items = page.lines().filter(|line| {
                let is_item = line.starts_with("\\fB\\-") && !line.contains(" [");
                is_item && line.contains(&format!("\\fB{word}\\fR"))
            });
            assert_eq!(items.count(), wanted, "{word}: {page}");
        }
        for word in ["run", "demo", "check", "preflight", "generate"] {
            assert!(page.contains(&format!(".SS \"wsteady {word}\"")), "{word}");
        }
        assert_eq!(page.matches(".SH OPTIONS").count(), 1, "{page}");
    }
}

/* SPDX-License-Identifier: MIT */
#include "vmm/completion.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#include "vmm/ctl.h"
#include "vmm/option_table.h"

#define COMMANDS "run ctl doctor bind unbind help"

/* The commands with options that are not in the table, and their options with a value. */
static const struct {
	const char *name;
	const char *words; /* as in struct option_row; "%%": a PCI device, whatever has it */
} others[] = {
	{ "doctor", "--json --memory --help %%" }, { "doctor--memory", "" },
	{ "bind", "--force --help %%" },           { "unbind", "--help %" },
	{ "ctl", "@ --json --force --help" }, /* and its commands, below */
};

/* bash ends its words at = and : as well; `word` is all of it. */
static const char bash_rest[] =
	"_ballast() {\n"
	"    local line=${COMP_LINE:0:COMP_POINT} word option head='' piece try file replies=()\n"
	"    local before said=()\n"
	"    local command=${COMP_WORDS[1]} bus=/sys/bus/pci\n"
	"    word=${line##* } option=${line% *} option=${option##* }\n"
	"    if [[ $COMP_CWORD -eq 1 ]]; then\n"
	"        mapfile -t COMPREPLY < <(compgen -W \"$_ballast_commands\" -- \"$word\")\n"
	"        return\n"
	"    fi\n"
	"    if [[ -z ${_ballast_words[$command]-} ]]; then\n"
	"        mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
	"        return\n"
	"    fi\n"
	"    local words=${_ballast_words[$command$option]-${_ballast_words[$command]}}\n"
	"    if [[ $command == ctl ]]; then\n"
	"        read -ra before <<<\"${line%\"$word\"}\"\n"
	"        for try in \"${before[@]:2}\"; do [[ $try == -* ]] || said+=(\"$try\"); done\n"
	"        # After the socket a command, and after that what its last operand may be.\n"
	"        [[ ${#said[@]} -eq 0 ]] || words=${_ballast_words[ctl:${said[1]-}:${#said[@]}]-}\n"
	"    fi\n"
	"    [[ $words != *=* ]] || head=${word%\"${word##*,}\"}\n"
	"    piece=${word#\"$head\"}\n"
	"    for try in $words; do\n"
	"        case $try in\n"
	"        % | %%)\n"
	"           [[ $try == %% ]] && file=$bus/devices || file=$bus/drivers/vfio-pci\n"
	"           for file in \"$file\"/*:*; do\n"
	"               file=${file##*/}\n"
	"               [[ $file != \"$piece\"* || $file == '*:*' ]] || replies+=(\"$file\")\n"
	"           done ;;\n"
	"        *@) try=${try%@}\n"
	"            if [[ $piece == \"$try\"* ]]; then\n"
	"                while read -r file; do replies+=(\"$try$file\"); done < <(\n"
	"                    compgen -f -- \"${piece#\"$try\"}\")\n"
	"                compopt -o filenames 2>/dev/null\n"
	"            elif [[ $try == \"$piece\"* ]]; then\n"
	"                replies+=(\"$try\")\n"
	"            fi ;;\n"
	"        *) [[ $try != \"$piece\"* ]] || replies+=(\"$try\") ;;\n"
	"        esac\n"
	"    done\n"
	"    [[ ${replies[0]-} != *[=:] ]] || compopt -o nospace 2>/dev/null\n"
	"    COMPREPLY=()\n"
	"    for try in \"${replies[@]}\"; do\n"
	"        try=$head$try\n"
	"        COMPREPLY+=(\"${try#\"${word%\"${word##*[=:]}\"}\"}\")\n"
	"    done\n"
	"}\n"
	"complete -F _ballast ballast\n";

static const char zsh_head[] =
	"#compdef ballast\n"
	"# made from ballast's option table\n"
	"_ballast_value() {\n"
	"    local try\n"
	"    [[ \"$*\" != *=* ]] || compset -P '*,'\n"
	"    for try in \"$@\"; do\n"
	"        case $try in\n"
	"        %) compadd -- /sys/bus/pci/drivers/vfio-pci/*:*(N:t) ;;\n"
	"        %%) compadd -- /sys/bus/pci/devices/*:*(N:t) ;;\n"
	"        @) _files ;;\n"
	"        *@) if compset -P \"${try%@}\"; then _files; else compadd -S '' -- \"${try%@}\"; fi ;;\n"
	"        *=) compadd -S '' -- \"$try\" ;;\n"
	"        *) compadd -- \"$try\" ;;\n"
	"        esac\n"
	"    done\n"
	"}\n"
	"_ballast_ctl() {\n"
	"    local -a said\n"
	"    said=(${words[2,CURRENT-1]:#-*})\n"
	"    case $said[2]:$#said in\n";

static const char zsh_rest[] =
	"    esac\n"
	"}\n"
	"if (( CURRENT == 2 )); then\n"
	"    compadd -- " COMMANDS " --help --version\n"
	"    return\n"
	"fi\n"
	"shift words\n"
	"(( CURRENT-- ))\n"
	"case $words[1] in\n"
	"run) ;;\n"
	"ctl)\n"
	"    _arguments '--json[the answer as it came]' '(-)--help[help]' '1:SOCKET:_files' \\\n"
	"        '*:COMMAND:_ballast_ctl'\n"
	"    return ;;\n"
	"doctor)\n"
	"    _arguments '--json[one JSON document]' '--memory[of the guest]:SIZE: ' \\\n"
	"        '(-)--help[help]' '*:BDF:_ballast_value %%'\n"
	"    return ;;\n"
	"bind)\n"
	"    _arguments '--force[even what the host needs]' '(-)--help[help]' \\\n"
	"        '*:BDF:_ballast_value %%'\n"
	"    return ;;\n"
	"unbind)\n"
	"    _arguments '(-)--help[help]' '*:BDF:_ballast_value %'\n"
	"    return ;;\n"
	"*)\n"
	"    _files\n"
	"    return ;;\n"
	"esac\n"
	"_arguments";

/* The commands of ctl, with a space between them. */
static void print_commands(void)
{
	const char *name, *words;
	unsigned int nr;

	for (unsigned int i = 0; (name = ctl_command(i, &nr, &words)); i++)
		printf("%s%s", i == 0 ? "" : " ", name);
}

static void print_bash(void)
{
	const char *name, *words;
	unsigned int nr;

	printf("# bash completion of ballast, made from its option table\n"
	       "_ballast_commands='" COMMANDS " --help --version'\n"
	       "_ballast_options='");
	for (unsigned int i = 0; i < nr_option_rows; i++)
		printf("%s--%s", i == 0 ? "" : " ", option_rows[i].name);
	printf("'\ndeclare -A _ballast_words=(\n"
	       "    [run]=$_ballast_options\n");
	/* An option with a value of which nothing is known offers nothing. */
	for (unsigned int i = 0; i < nr_option_rows; i++) {
		const struct option_row *row = &option_rows[i];
		if (row->argument)
			printf("    [run--%s]='%s'\n", row->name, row->words ? row->words : "");
	}
	for (unsigned int i = 0; i < nitems(others); i++)
		printf("    [%s]='%s'\n", others[i].name, others[i].words);
	printf("    [ctl::1]='");
	print_commands();
	puts("'");
	for (unsigned int i = 0; (name = ctl_command(i, &nr, &words)); i++) {
		if (*words)
			printf("    [ctl:%s:%u]='%s'\n", name, 1 + nr, words);
	}
	printf(")\n%s", bash_rest);
}

/* The first line of a text, within a specification of _arguments in single quotes. */
static void print_escaped(const char *text)
{
	for (; *text && *text != '\n'; text++) {
		if (strchr("[]:\\", *text))
			putchar('\\');
		if (*text == '\'') /* it is in such quotes */
			fputs("'\\''", stdout);
		else
			putchar(*text);
	}
}

static void print_zsh(void)
{
	const char *name, *words;
	unsigned int nr;

	printf("%s    :1) _ballast_value ", zsh_head);
	print_commands();
	puts(" ;;");
	for (unsigned int i = 0; (name = ctl_command(i, &nr, &words)); i++) {
		if (*words)
			printf("    %s:%u) _ballast_value %s ;;\n", name, 1 + nr, words);
	}
	fputs(zsh_rest, stdout);
	for (unsigned int i = 0; i < nr_option_rows; i++) {
		const struct option_row *row = &option_rows[i];
		printf(" \\\n    '%s--%s[", row->again == OPTION_REPLACES ? "" : "*",
		       row->name);
		print_escaped(row->help ? row->help : row->name);
		putchar(']');
		if (row->argument) {
			putchar(':');
			print_escaped(row->argument);
			printf(": ");
		}
		if (row->argument && row->words) {
			printf("_ballast_value ");
			print_escaped(row->words);
		}
		putchar('\'');
	}
	putchar('\n');
}

int completion_print(const char *shell)
{
	if (strcmp(shell, "bash") == 0)
		print_bash();
	else if (strcmp(shell, "zsh") == 0)
		print_zsh();
	else
		return log_refuse(-EINVAL, "--completion '%s': it is bash or zsh", shell);
	return 0;
}

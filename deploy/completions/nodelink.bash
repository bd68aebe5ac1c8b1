# Bash completion of nodelink: commands and flags come from its own --help, so they are never out
# of date; agent ids from the cluster, if it answers within a second.

_nodelink_words() { # the commands that begin with the words so far; the next word of each
    nodelink --help 2>/dev/null | awk -v so_far="$1" '
        /^flags/ { exit }
        /^  [a-z]/ {
            name = substr($0, 3, 20); sub(/ +$/, "", name); name = name " "
            if (index(name, so_far) == 1) { split(substr(name, length(so_far) + 1), w, " "); print w[1] }
        }' | sort -u
}

_nodelink_flags() {
    # shellcheck disable=SC2086
    nodelink $1 --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*'
}

_nodelink() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        [ "${COMP_WORDS[i]}" = -- ] && return # the command to run is not ours
        [[ ${COMP_WORDS[i]} == -* ]] && break
        words+="${COMP_WORDS[i]} "
    done
    case "$previous" in
        -o | --output) mapfile -t COMPREPLY < <(compgen -W "table json" -- "$current") && return ;;
        --dir | --cwd) mapfile -t COMPREPLY < <(compgen -d -- "$current") && return ;;
        --token-file | --out) mapfile -t COMPREPLY < <(compgen -f -- "$current") && return ;;
    esac
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_nodelink_flags "$words")" -- "$current")
        return
    fi
    case "$words" in
        "run " | "agent show " | "agent token create " | "agent token revoke ")
            local agents
            agents=$(nodelink agent list --timeout 1s 2>/dev/null | awk 'NR > 1 { print $1 }')
            mapfile -t COMPREPLY < <(compgen -W "$agents" -- "$current")
            ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$(_nodelink_words "$words")" -- "$current") ;;
    esac
}

complete -F _nodelink nodelink

# Completion of moejax in bash. For this shell:   eval "$(moejax completion bash)"
# For every one:   moejax completion bash > ~/.local/share/bash-completion/completions/moejax
_moejax() {
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion --answer "$COMP_WORDBREAKS" "${COMP_WORDS[@]:0:COMP_CWORD+1}" 2>/dev/null))
    # No space behind what goes on: 'model=' and folders.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o default -F _moejax moejax

#compdef moejax
# Completion of moejax in zsh, after `autoload -U compinit; compinit`. For this shell:   eval "$(moejax completion zsh)"
# For every one:   moejax completion zsh > a folder of $fpath/_moejax
_moejax() {
    local -a found going
    found=("${(@f)$("${words[1]}" completion --answer "" "${(@)words[1,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    if (( ${#found} == 0 )); then
        _files
        return
    fi
    # No space behind what goes on: 'model=' and folders.
    going=("${(@M)found:#*[=/]}")
    found=("${(@)found:#*[=/]}")
    (( ${#going} )) && compadd -S '' -- "${going[@]}"
    (( ${#found} )) && compadd -- "${found[@]}"
}
if [[ ${funcstack[1]} == _moejax ]]; then
    _moejax "$@"
else
    compdef _moejax moejax
fi

# Completion of moejax in fish. For this shell:   moejax completion fish | source
# For every one:   moejax completion fish > ~/.config/fish/completions/moejax.fish
function __moejax_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found ($words[1] completion --answer "" $words "$current" 2>/dev/null)
    if test -n "$found"
        string join \n -- $found
    else
        __fish_complete_path "$current"
    end
end
complete -c moejax -f -a '(__moejax_complete)'

# Judges what the hot paths of tests/assembly/hot_paths.rs were compiled to: `awk -v machine=x86_64 -f judge.awk FILE.s`.
# Follows every call from each of them but those to what is cold or known, and says a line for each thing that must not
# be, or else one line for each path. Exits with 1 if there was any.

# A function's instructions, one a line, and whom it calls.
/^[A-Za-z_][^ \t]*:/ { name = substr($1, 1, length($1) - 1); next }
/^\.Lfunc_end/ { name = "" }
name == "" || !/^\t[a-z]/ { next }
{
    sub(/[ \t]*(#|\/\/).*/, "")
    body[name] = body[name] $0 "\n"
    count[name]++
    if ($1 ~ /^(callq?|jmpq?|bl?)$/ && $2 !~ /^\*?\.L|^\*?[%(]/) {
        callee = $2
        gsub(/^\*|@.*/, "", callee)
        calls[name] = calls[name] callee "\n"
    }
    # Of another crate, by a table of addresses; a register says nothing of it when it is called.
    if (machine == "aarch64" && match($0, /:got:[A-Za-z_][A-Za-z0-9_.$]*/))
        calls[name] = calls[name] substr($0, RSTART + 5, RLENGTH - 5) "\n"
}

function complain(path, what) {
    print path ": " what
    faults++
}

# Not on the hot path: what is rare, and what a program does not survive. The system's clock is publishing's one call.
function is_cold(callee) {
    return callee ~ /6Reader8obstacle|4bell6Ringer4wake|9Publisher6refuse|9Publisher13wait_for_room|9Publisher3ask|5clock.*4look|13expect_failed|7Refusal5error|5Batch13wait_for_room|5batch10admit_late|_Unwind_Resume|9panicking|16slice_index_fail/
}
function is_known(callee) {
    return callee ~ /9publisher6now_ns|10SystemTime|Source.*9system_ns/
}

# Adds up the instructions of `path` and all that it calls.
function walk(path, name,    list, n, i, lines) {
    if (seen[name]) return
    seen[name] = 1
    total += count[name]
    n = split(body[name], lines, "\n")
    for (i = 1; i < n; i++) weigh(path, lines[i])
    n = split(calls[name], list, "\n")
    for (i = 1; i < n; i++) {
        if (is_cold(list[i]) || is_known(list[i])) continue
        if (list[i] in body) walk(path, list[i])
        else complain(path, "calls " list[i])
    }
}

function weigh(path, line,    word) {
    split(line, word)
    if (machine == "x86_64") {
        if (word[1] ~ /^(lock|[lms]fence|syscall|sysenter|int)$/ || word[1] ~ /^xchg/ && line ~ /\(/)
            complain(path, "has" line)
    } else if (word[1] == "dmb") {
        barriers[word[2]]++
    } else if (word[1] == "stlr") {
        releases++
    } else if (word[1] ~ /^(ld[al]?x|ldax|ldapr|ldar|st[l]?x|cas|swp|ld(add|clr|eor|set|smax|smin|umax|umin)|dsb|isb|svc)/) {
        complain(path, "has" line)
    }
}

function expect(path, what, found, least, most) {
    if (found < least || found > most)
        complain(path, "has " found + 0 " " what ", expected " least (most > least ? " to " most : ""))
}

END {
    n = split("publish_small publish_large push_small lend_small lend_typed poll_in_place poll_copy poll_typed", paths)
    for (i = 1; i <= n; i++) {
        path = paths[i]
        found = ""
        for (name in body) if (name ~ ("9hot_paths[0-9]+" path)) found = name
        split("", seen); split("", barriers)
        releases = total = 0
        before = faults
        walk(path, found)
        # Less would be no path at all.
        if (total < 40) complain(path, "has only " total " instructions")
        if (machine == "aarch64") {
            publishes = path ~ /^(pu|lend)/
            # W1; W2 and S1: once for small messages and once for large ones, as the length is looked at on the way, but not
            # where a message is lent. R1 and R2, each of which may have been doubled for two branches. That of what looks
            # corrupt is cold.
            times = path ~ /^pu/ ? 2 : publishes
            expect(path, "dmb ish", barriers["ish"], times, times)
            expect(path, "stlr", releases, 2 * times, 2 * times)
            expect(path, "dmb ishld", barriers["ishld"], publishes ? 0 : 2, publishes ? 0 : 4)
        }
        if (faults == before) print machine " " path ": " total " instructions, as they should be"
    }
    exit faults > 0
}

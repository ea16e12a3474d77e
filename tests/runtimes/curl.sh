url=$1; shift
for model in "$@"; do
    curl -sS -H 'Content-Type: application/json' -d "{\"model\": \"$model\", \"messages\": []}" -w '\n' "$url"
done

<?php // A chat as an HTTP API behind wsteady: php -S 127.0.0.1:8000 chat.php
$wsteady = getenv('WSTEADY') ?: 'http://127.0.0.1:8080';
$id = substr(parse_url('http://chat' . $_SERVER['REQUEST_URI'], PHP_URL_PATH), 1);
// PHP forgets everything between two requests: a file holds who is here and the last key of each.
$file = fopen(getenv('CHAT_STATE') ?: sys_get_temp_dir() . '/wsteady-chat.json', 'c+');
flock($file, LOCK_EX);
$here = json_decode(stream_get_contents($file), true) ?: [];
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $key = $_SERVER['HTTP_IDEMPOTENCY_KEY'] ?? uniqid();
    if (($here[$id] ?? '') !== $key) { // otherwise it is a repeat, and was dealt with
        $text = "$id: " . file_get_contents('php://input');
        $push = ['method' => 'POST', 'content' => $text, 'timeout' => 5,
            'header' => 'Content-Type: text/plain; charset=utf-8'];
        foreach (array_diff(array_keys($here), [$id]) as $other) {
            @file_get_contents("$wsteady/$other", false, stream_context_create(['http' => $push]));
        }
        $here[$id] = $key;
    }
} else {
    if ($_SERVER['REQUEST_METHOD'] === 'GET') { $here[$id] = ''; } else { unset($here[$id]); }
    echo 'ok';
}
ftruncate($file, 0);
rewind($file);
fwrite($file, json_encode((object) $here));

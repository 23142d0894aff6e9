// Plays what movie() in map.py returns: one canvas a scenario, no library, nothing from outside.
"use strict";
for (const box of document.querySelectorAll(".map")) {
  const movies = JSON.parse(box.querySelector("script").textContent);
  const canvas = box.querySelector("canvas"), pen = canvas.getContext("2d");
  const [play, slider, choice, said] = ["button", "input", "select", "output"].map(tag => box.querySelector(tag));
  const PLAY_S = 25, PAD = 24, LIT = 0.012;
  let movie = movies[0], at = 0, last = 0, running = false;
  movies.forEach((each, place) => choice.add(new Option(each.title, place)));

  const scale = () => Math.min((canvas.width - 2 * PAD) / movie.size[0], (canvas.height - 2 * PAD) / movie.size[1]);
  const spot = ([x, y]) => [PAD + x * scale(), canvas.height - PAD - y * scale()];

  function places(t) {
    const times = movie.times, frames = movie.frames;
    let next = times.findIndex(time => time > t);
    if (next < 0) next = times.length;
    if (next === 0 || next === times.length) return frames[Math.max(next - 1, 0)];
    const part = (t - times[next - 1]) / (times[next] - times[next - 1]);
    return frames[next].map((to, n) => to.map((v, axis) => frames[next - 1][n][axis] * (1 - part) + v * part));
  }

  function cells() {
    // Each patch belongs to the base station nearest to it.
    if (!movie.placed || movie.sites.length < 2) return;
    const spots = movie.sites.map(spot), patch = 12;
    for (let x = 0; x < canvas.width; x += patch)
      for (let y = 0; y < canvas.height; y += patch) {
        const near = spots.map(([a, b]) => (a - x) ** 2 + (b - y) ** 2);
        const cell = near.indexOf(Math.min(...near));
        pen.fillStyle = `hsl(${(cell * 137) % 360} 60% 96%)`;
        pen.fillRect(x, y, patch, patch);
      }
  }

  function draw() {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    cells();
    const here = places(at), most = Math.max(...movie.moves.map(move => move[4]), 1e-9);
    const end = n => spot(n < 0 ? movie.sites[-1 - n] : here[n]), light = movie.end * LIT;
    const name = n => n < 0 ? (movie.placed ? `station ${-1 - n}` : "edge server") : movie.nodes[n];
    let told = "";
    for (const [sent, begun, from, to, rate] of movie.moves) {
      if (sent > at) break;
      told = `${name(from)} to ${name(to)}, ${rate.toPrecision(3)} Mbit/s`;
      const age = at - Math.max(begun, sent + light);
      if (age > 8 * light) continue;
      const [a, b] = [end(from), end(to)];
      pen.globalAlpha = age > 0 ? 1 - age / (8 * light) : 1;
      pen.strokeStyle = `hsl(${120 * rate / most} 80% 40%)`;
      pen.lineWidth = age > 0 ? 1.5 : 3.5;
      pen.beginPath(); pen.moveTo(...a); pen.lineTo(...b); pen.stroke();
      if (age <= 0) {
        const part = Math.min(1, (at - sent) / Math.max(begun - sent, light));
        pen.fillStyle = pen.strokeStyle;
        pen.beginPath(); pen.arc(a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part, 6, 0, 7); pen.fill();
      }
    }
    pen.globalAlpha = 1;
    pen.textAlign = "center"; pen.textBaseline = "middle"; pen.font = "11px system-ui";
    for (const [x, y] of movie.sites.map(spot)) {
      pen.fillStyle = "#555";
      pen.beginPath(); pen.moveTo(x, y - 9); pen.lineTo(x + 8, y + 6); pen.lineTo(x - 8, y + 6); pen.fill();
    }
    here.map(spot).forEach(([x, y], n) => {
      pen.beginPath(); pen.arc(x, y, 11, 0, 7);
      pen.fillStyle = "#fff"; pen.fill();
      pen.lineWidth = 1.5; pen.strokeStyle = "#333"; pen.stroke();
      pen.fillStyle = "#222"; pen.fillText(movie.nodes[n].slice(1), x, y);
    });
    const known = movie.curve.filter(([t]) => t <= at);
    const accuracy = known.length ? known[known.length - 1][1].toFixed(3) : "-";
    said.textContent = `${at.toPrecision(4)} s of ${movie.end.toPrecision(4)} s, accuracy ${accuracy}. ${told}`;
    slider.value = movie.end ? 1000 * at / movie.end : 0;
  }

  function tick(now) {
    if (!running) return;
    at = Math.min(movie.end, at + (now - last) / 1000 * movie.end / PLAY_S);
    last = now;
    draw();
    if (at >= movie.end) stop(); else requestAnimationFrame(tick);
  }
  function stop() { running = false; play.textContent = "play"; }
  play.onclick = () => {
    if (running) return stop();
    if (at >= movie.end) at = 0;
    running = true; play.textContent = "pause"; last = performance.now();
    requestAnimationFrame(tick);
  };
  slider.oninput = () => { at = movie.end * slider.value / 1000; draw(); };
  choice.onchange = () => { movie = movies[choice.value]; at = 0; draw(); };
  draw();
}

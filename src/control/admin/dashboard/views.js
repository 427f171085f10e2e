/* Views */

const view = () => (location.hash.startsWith("#session/") ? "session" : location.hash === "#sessions" ? "sessions" : "overview");

const show = () => {
  for (const name of ["overview", "sessions", "session"]) at(`view-${name}`).hidden = name !== view();
  const marked = view() === "overview" ? "to-overview" : "to-sessions";
  for (const id of ["to-overview", "to-sessions"]) {
    if (id === marked) at(id).setAttribute("aria-current", "page");
    else at(id).removeAttribute("aria-current");
  }
  if (view() === "session") at("session-legs").replaceChildren();
  refresh();
  draw();
};

const refresh = () => {
  if (document.hidden || at("content").hidden) return;
  const busy = at("view-sessions").contains(document.activeElement);
  if (view() === "sessions" && !busy) loadSessions();
  if (view() === "session") loadSession();
};

const draw = () => {
  if (document.hidden) return;
  drawVerdict();
  drawChoices();
  if (view() !== "overview") return;
  drawNumbers();
  drawServers();
  drawCharts();
  drawNews();
};

document.querySelector(".skip").addEventListener("click", (event) => {
  // The part behind # names the view.
  event.preventDefault();
  at("main").focus();
});
addEventListener("hashchange", () => {
  show();
  at("main").focus();
});
document.addEventListener("visibilitychange", draw);
addEventListener("resize", draw);
setInterval(drawVerdict, 1000);
setInterval(refresh, 3000);
sessionTools();
show();
stay();
